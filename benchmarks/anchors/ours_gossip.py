"""hubless: gossip on the common random 4-regular graph, every peer with its own model, uniform weights."""

from __future__ import annotations

from anchors.ours import run
from hubless.learn.overlays import Gossip
from hubless.parts import make

if __name__ == "__main__":
    run("hubless gossip", Gossip(make("topology", "random-regular:4"), weights="uniform"))
