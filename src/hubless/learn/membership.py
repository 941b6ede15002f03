"""What a peer knows of all others, and the order in which everyone who knows the same draws them (arXiv 2302.13837).

A view is a replicated data type: merging two is the larger of every number, so it does not matter in which order,
or how often, news arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import MessageError

ENTRY = 48  # bytes of one entry of a view in a message: key 32, round 8, counter 8
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Membership:
    """What one peer knows of all.

    active:  ``[N]`` last round in which each peer was heard of
    counter: ``[N]`` changes of each peer's membership, counted by itself: even: it is in, odd: it left, -1: unknown
    """

    active: Tensor
    counter: Tensor

    @staticmethod
    def of(n: int, entries: Iterable[tuple[int, int, int]]) -> Membership:
        """A view as it was received: (id, last active round, counter) each. Raises MessageError for a bad entry."""
        active, counter = torch.full((n,), UNKNOWN), torch.full((n,), UNKNOWN)
        for peer, round_, count in entries:
            if not 0 <= peer < n or count < 0:
                raise MessageError(
                    f"view: no peer {peer} with counter {count}; ids are 0 to {n - 1}, counters count up"
                )
            if counter[peer] != UNKNOWN:
                raise MessageError(f"view: peer {peer} is there twice")
            active[peer], counter[peer] = round_, count
        return Membership(active, counter)

    def merge(self, other: Membership) -> Membership:
        """What both know together; a smaller counter or an earlier round is old news and changes nothing."""
        return Membership(torch.maximum(self.active, other.active), torch.maximum(self.counter, other.counter))

    def learn(self, peer: int, active: int, counter: int = UNKNOWN) -> Membership:
        """The same with one piece of news."""
        rounds, counters = self.active.clone(), self.counter.clone()
        rounds[peer], counters[peer] = max(int(rounds[peer]), active), max(int(counters[peer]), counter)
        return Membership(rounds, counters)

    def change(self, peer: int, *, here: bool) -> int:
        """The counter with which a peer announces that it joins or leaves."""
        return int(self.counter[peer]) + (1 if (int(self.counter[peer]) % 2 == 1) == here else 2)

    def candidates(self, t: int, window: int) -> Tensor:
        """Ids of peers that are in and were heard of since round ``t - window``."""
        here = (self.counter >= 0) & (self.counter % 2 == 0) & (self.active >= t - window)
        return torch.nonzero(here).flatten()

    @property
    def size(self) -> int:
        """Bytes of the view in a message."""
        return ENTRY * int((self.counter >= 0).sum())


def sample_order(peers: Sequence[int], t: int, seed: int) -> list[int]:
    """Peers in the order of SHA-256 of id and round; the seed stands for the run's own public keys."""
    return sorted(peers, key=lambda peer: hashlib.sha256(f"{seed}/{peer}:{t}".encode()).digest())
