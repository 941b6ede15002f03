"""What an aggregator has received in a round: sums as they come, or every message where a part must see each."""

from __future__ import annotations

import torch
from torch import Tensor

from hubless.learn.accept import Forms
from hubless.learn.context import Inbox, Message


class Gathered:
    """Collects messages weighted by ``weights [N]``, 0 for those that did not arrive.

    Sums are taken chunk by chunk in the order in which chunks were made, so they do not depend on threads.
    keep: hold every message, for merges that are not linear, judges, and attacks that look at the honest
    """

    def __init__(self, weights: Tensor, *, keep: bool) -> None:
        self.weights = weights
        self.keep = keep
        self.kept: dict[int, Message] = {}
        self.counts: dict[str, int] = {}
        self.forms = Forms()
        self._sums: Message = {}
        self._totals: dict[str, float] = {}
        self._senders: set[int] = set()

    @property
    def senders(self) -> tuple[int, ...]:
        """Whose messages count, in id order."""
        return tuple(sorted(peer for peer in self._senders if float(self.weights[peer]) > 0))

    def partial(self, peers: Tensor, said: Message) -> Message:
        """Weighted sums of a chunk's messages ``[C, ...]``; pure, so that worker threads may take them."""
        weight = self.weights[peers].to(torch.float32)
        return {name: torch.einsum("c,c...->...", weight.to(value), value) for name, value in said.items()}

    def add_sums(self, peers: Tensor, sums: Message) -> None:
        """A chunk's partial sums."""
        weight = self.weights[peers]
        arrived = peers[weight > 0].tolist()
        self._senders.update(arrived)
        for name, value in sums.items():
            self._count(name, len(arrived), float(weight.sum()))
            self._sums[name] = self._sums[name].add_(value) if name in self._sums else value

    def add(self, peer: int, m: Message) -> None:
        """One message."""
        weight = float(self.weights[peer])
        if weight <= 0:
            return
        self._senders.add(peer)
        for name, value in m.items():
            self._count(name, 1, weight)
            if not self.keep:
                self._sums[name] = self._sums[name].add_(value, alpha=weight) if name in self._sums else value * weight
        if self.keep:
            self.kept[peer] = {name: value.clone() for name, value in m.items()}

    def _count(self, name: str, count: int, weight: float) -> None:
        self.counts[name] = self.counts.get(name, 0) + count
        self._totals[name] = self._totals.get(name, 0.0) + weight

    def means(self) -> Message:
        """The weighted means, name by name; names whose weights sum to 0 are left out."""
        return {name: value / self._totals[name] for name, value in self._sums.items() if self._totals[name] > 0}

    def inbox(self) -> Inbox:
        """Every kept message that counts, in id order."""
        ids = self.senders
        weights = self.weights[list(ids)].to(torch.float32)
        return Inbox(ids, weights, [self.kept[peer] for peer in ids])
