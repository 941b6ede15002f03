"""Who takes part in a secure sum, who shares masks with whom, and how many must be left."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Group:
    """The planned senders of one inbox.

    peers:     their ids, sorted
    inbox:     the receiver, which may be one of them
    threshold: more than this share of the senders must arrive, and more than this share of a peer's helpers
    degree:    neighbours of each sender; 0 means all others (Bonawitz et al. 2017). With few, cost is n k in place of
               n^2 (Bell et al., CCS 2020): a ring in the order of a public hash, each next to the ``degree`` nearest.
               Whoever can choose ids at will chooses its neighbours, so that is for honest-but-curious peers.
    step:      round and step, of which the order is drawn
    """

    peers: tuple[int, ...]
    inbox: int
    threshold: float = 0.5
    degree: int = 0
    step: tuple[int, int] = (0, 0)

    @cached_property
    def _order(self) -> list[int]:
        def rank(peer: int) -> bytes:
            return hashlib.blake2b(f"{self.step}/{self.inbox}/{peer}".encode(), digest_size=16).digest()

        return sorted(self.peers, key=rank)

    @cached_property
    def _place(self) -> dict[int, int]:
        return {peer: at for at, peer in enumerate(self._order)}

    def neighbours(self, peer: int) -> tuple[int, ...]:
        """Those with whom a sender shares a mask, sorted."""
        n = len(self.peers)
        if not self.degree or self.degree >= n - 1:
            return tuple(other for other in self.peers if other != peer)
        at, reach = self._place[peer], self.degree // 2
        return tuple(sorted(self._order[(at + step) % n] for step in range(-reach, reach + 1) if step))

    def helpers(self, peer: int) -> tuple[int, ...]:
        """Those who hold shares of a sender's secrets: its neighbours and itself, sorted."""
        return tuple(sorted((*self.neighbours(peer), peer)))

    def needed(self, count: int) -> int:
        """How many of ``count`` must be left."""
        return min(count, max(2, math.floor(self.threshold * count + 1e-9) + 1))

    def refuses(self, arrived: Collection[int]) -> str:
        """Why the sum of those who arrived must not be revealed; empty when it may."""
        there, least = set(arrived), self.needed(len(self.peers))
        if strangers := there.difference(self.peers):
            return f"peer {min(strangers)} is no sender of this inbox"
        if len(there) < least:
            return f"{len(there)} of {len(self.peers)} senders arrived, {least} are needed"
        if len(there - {self.inbox}) < 2:
            return "fewer than 2 senders besides the receiver arrived"
        if not self._connected(there):
            return "masks no longer connect all who arrived"
        return ""

    def _connected(self, peers: Iterable[int]) -> bool:
        """Otherwise the sum would fall apart into sums of parts."""
        if not self.degree:
            return True
        left = set(peers)
        waiting = [left.pop()]
        while waiting and left:
            near = left.intersection(self.neighbours(waiting.pop()))
            left -= near
            waiting += near
        return not left
