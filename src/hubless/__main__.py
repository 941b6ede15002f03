"""``python -m hubless``: the command line."""

import sys

from hubless.cli import main

if __name__ == "__main__":
    sys.exit(main())
