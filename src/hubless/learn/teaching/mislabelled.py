"""Peers whose labels mean nothing: poor teachers, that nobody told to be hostile."""

from __future__ import annotations

from dataclasses import dataclass

from hubless.learn import keys
from hubless.learn.workload import Shards, Workload


@dataclass(frozen=True)
class Mislabelled(Workload):
    """Some peers' labels are drawn at random, those of what they hold out as well.

    poor: their ids
    """

    poor: frozenset[int] = frozenset()

    def shards(self, seed: int) -> Shards:
        """Every peer's share, with its labels."""
        old = super().shards(seed)
        parts = [old.flat[first : first + size] for first, size in zip(old.start, old.sizes, strict=True)]
        y, apart = old.y.clone(), [old.held(peer) for peer in range(self.peers)]
        for peer in sorted(self.poor):
            key = keys.fold(seed, "labels", peer)
            size = len(parts[peer])
            drawn = (keys.uniform(key, (size + len(apart[peer][1]),)) * len(old.data.classes)).to(y.dtype)
            y[parts[peer]], apart[peer] = drawn[:size], (apart[peer][0], drawn[size:])
        return Shards(old.x, y, parts, old.test_x, old.test_y, old.few, old.data, apart)
