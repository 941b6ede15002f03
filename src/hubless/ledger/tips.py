"""The graph of a tangle: every transaction approves two earlier ones; what nobody approves yet is a tip.

Tips are chosen uniformly, or by a walk from old to new that prefers heavy transactions: from x to one that approves
it, y, with weight exp(alpha * (weight of y - the greatest weight)). Weight is a transaction's own and that of all that
approve it, directly or not. Of two that spend the same the heavier wins; nobody approves the other or its descendants.
Source: Popov, "The Tangle", 2018, sections 2 and 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from hubless.errors import ConfigError
from hubless.ledger.ancestry import Ancestry, bits

START = 64  # a walk starts among the transactions that were confirmed last


class Tips:
    """Transactions by place: who approves them, which are tips, which are confirmed."""

    def __init__(self, genesis: bytes) -> None:
        self.graph = Ancestry()
        self.graph.add(genesis, ())
        self.approvers: list[list[int]] = [[]]
        self.parents: list[tuple[int, ...]] = [()]
        self.open = 0  # bits of what is not confirmed
        self.weights: list[int] = [1]  # of what is open, exact; of the rest as it was when it was confirmed
        self._tips: dict[int, None] = {0: None}
        self._spent: dict[bytes, list[int]] = {}
        self._losers: int | None = 0

    def __len__(self) -> int:
        return len(self.graph)

    def add(self, key: bytes, left: bytes, right: bytes, spends: bytes = b"") -> int:
        """The place of a new transaction. Raises UnknownParent."""
        item = self.graph.add(key, (left, right))
        parents = tuple(dict.fromkeys((self.graph.index[left], self.graph.index[right])))
        for parent in parents:
            self.approvers[parent].append(item)
            self._tips.pop(parent, None)
        self.parents.append(parents)
        self.approvers.append([])
        self.weights.append(1)
        self._tips[item] = None
        for i in bits(self.graph.past[item] & self.open):
            self.weights[i] += 1
        self.open |= 1 << item
        if spends:
            self._spent.setdefault(spends, []).append(item)
        if any(len(rivals) > 1 for rivals in self._spent.values()):
            self._losers = None
        return item

    def losers(self) -> int:
        """Bits of the transactions that lost a conflict: lighter, or as heavy and of the higher hash."""
        if self._losers is None:
            self._losers = 0
            for rivals in self._spent.values():
                if len(rivals) > 1:
                    best = min(rivals, key=lambda i: (-self.weight(i), self.graph.hashes[i]))
                    for i in rivals:
                        self._losers |= (i != best) << i
        return self._losers

    def weight(self, item: int) -> int:
        """A transaction's cumulative weight: how many are it or approve it."""
        return sum(past >> item & 1 for past in self.graph.past[item:])

    def tips(self) -> list[int]:
        """The tips that may be approved: of the graph without losers and what stands on them."""
        losers = self.losers()
        if not losers:
            return list(self._tips)
        good = [not past & losers for past in self.graph.past]
        return [i for i, fine in enumerate(good) if fine and not any(good[j] for j in self.approvers[i])]

    def choose(self, rng: Random, count: int = 2, alpha: float | None = None) -> list[int]:
        """Tips to approve, drawn with replacement: uniformly, or by walks with ``alpha``. Raises ConfigError."""
        tips = self.tips()
        if alpha is None:
            return rng.choices(tips, k=count)
        if not alpha >= 0:
            raise ConfigError(f"tangle.alpha = {alpha}: must be at least 0")
        return [self._walk(rng, alpha) for _ in range(count)]

    def _walk(self, rng: Random, alpha: float) -> int:
        losers, item = self.losers(), self._start(rng)
        while True:
            ways = [j for j in self.approvers[item] if not self.graph.past[j] & losers]
            if not ways:
                return item
            top = max(self.weights[j] for j in ways)
            item = rng.choices(ways, [math.exp(alpha * (self.weights[j] - top)) for j in ways])[0]

    def _start(self, rng: Random) -> int:
        losers, low = self.losers(), (self.open & -self.open).bit_length() - 1
        near = [i for i in range(max(0, low - START), max(1, low)) if not self.graph.past[i] & losers]
        return rng.choice(near or [0])

    def confirm(self, sampled: Sequence[int], share: float = 0.95) -> list[int]:
        """Confirm what at least ``share`` of the sampled tips stand on; its places, oldest first.

        A tip says nothing for itself: what nobody has approved is not confirmed.
        """
        losers, need = self.losers(), share * len(sampled)
        found = []
        for i in bits(self.open):
            if (
                self.approvers[i]
                and not losers >> i & 1
                and sum(self.graph.past[tip] >> i & 1 for tip in sampled) >= need
            ):
                found.append(i)
                self.open ^= 1 << i
        return found
