"""Text of different topics: every peer holds windows of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn.workload import Shards, Workload


def gathered(topics: Mapping[str, Dataset], test: int) -> Dataset:
    """One language set of several, with ``test`` test windows of each; its classes are their names."""
    x, y = (np.concatenate([getattr(one, name) for one in topics.values()]) for name in ("x", "y"))
    few = [one.test_subset(min(test, len(one.test_x)), 0) for one in topics.values()]
    test_x, test_y = (np.concatenate([getattr(one, name) for one in few]) for name in ("test_x", "test_y"))
    return Dataset(", ".join(topics), x, y, test_x, test_y, tuple(topics), "language")


@dataclass(frozen=True)
class Topics(Workload):
    """Peer i holds windows of topic i, counted round and round, and holds ``apart`` of them out.

    sizes: training windows of each topic, in the order of the data's classes, which are the topics
    """

    sizes: tuple[int, ...] = ()
    apart: int = 4
    _windows: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def shards(self, seed: int) -> Shards:
        """Equal shares, drawn for a seed. Raises ConfigError for a topic that has too little."""
        data, each = self.dataset, self.samples // self.peers
        if each < 1:
            raise ConfigError(f"samples = {self.samples}: must be at least one for each of {self.peers} peers")
        names, first = data.classes, np.cumsum([0, *self.sizes])
        parts: list[Tensor] = []
        held: list[Tensor] = []
        classes = torch.zeros(self.peers, len(names), dtype=torch.int64)
        for peer in range(self.peers):
            topic, turn = peer % len(names), peer // len(names)
            drawn = np.random.default_rng([seed, 0x70B1C, topic]).permutation(self.sizes[topic]) + first[topic]
            mine = torch.from_numpy(drawn[turn * (each + self.apart) :][: each + self.apart])
            if len(mine) < each + self.apart:
                raise ConfigError(
                    f"samples = {self.samples}: {names[topic]} has {self.sizes[topic]} windows, too few for {each} and"
                    f" {self.apart} held out at each peer; ask for less"
                )
            parts.append(mine[:each])
            held.append(mine[each:])
            classes[peer, topic] = each
        x, y, test_x, test_y = (torch.from_numpy(one) for one in (data.x, data.y, data.test_x, data.test_y))
        apart = [(x[rows], y[rows]) for rows in held]
        shards = Shards(x, y, parts, test_x, test_y, min(self.test, len(test_x)), data, apart)
        shards.classes = classes
        return shards
