"""What the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_runs_and_prints(at, tmp_path):
    code = EXAMPLES[at].replace('"mnist"', '"digits"').replace("samples=6000", "samples=600")  # what needs no fetching
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
