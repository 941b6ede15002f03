"""Whom a peer knows, by distance: the k-buckets of Kademlia (Maymounkov and Mazieres 2002, section 2.2)."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from hubless.net.transports.transport import PeerId

BITS = 256
CAPACITY = 20  # of a bucket; the width of a lookup is another number
MISSES = 2  # failed steps in a row, of two tries each: one lost answer says nothing


def place(key: bytes) -> int:
    """Where a key lies in the space of positions."""
    return int.from_bytes(hashlib.sha256(key).digest(), "big")


@lru_cache(maxsize=65_536)
def position(peer: PeerId) -> int:
    """Where a peer lies: the hash of its public key, so that nobody can choose a place without trying keys."""
    return place(bytes.fromhex(peer))


@dataclass
class Contact:
    """A peer that answered or asked at least once; ``misses`` counts steps in a row that failed."""

    addresses: tuple[str, ...] = ()
    misses: int = 0


class RoutingTable:
    """Contacts in buckets by the length of the prefix they share with ``me``; the oldest of a bucket comes first.

    Only peers that spoke themselves are entered, whoever spoke first: what others say of a peer is no proof of it.
    A full bucket keeps its contacts, which have shown that they stay, and gives up the first that missed a step.
    """

    def __init__(self, me: PeerId, capacity: int = CAPACITY) -> None:
        self.me = me
        self.capacity = capacity
        self.buckets: list[dict[PeerId, Contact]] = [{} for _ in range(BITS)]

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __contains__(self, peer: PeerId) -> bool:
        return peer != self.me and peer in self._bucket(peer)

    def seen(self, peer: PeerId, addresses: Sequence[str] = ()) -> None:
        """``peer`` spoke. Addresses it gave replace those it gave before."""
        if peer == self.me:
            return
        bucket = self._bucket(peer)
        contact = bucket.pop(peer, None) or Contact()
        if len(bucket) >= self.capacity:
            gone = next((other for other, held in bucket.items() if held.misses), None)
            if gone is None:
                return
            del bucket[gone]
        contact.misses = 0
        contact.addresses = tuple(addresses) or contact.addresses
        bucket[peer] = contact

    def missed(self, peer: PeerId) -> None:
        """A step to ``peer`` failed; the second in a row removes it."""
        bucket = self._bucket(peer)
        if peer in bucket:
            bucket[peer].misses += 1
            if bucket[peer].misses >= MISSES:
                del bucket[peer]

    def closest(self, target: int, count: int) -> list[PeerId]:
        """At most ``count`` contacts, nearest first; those that missed their last step come after all others."""
        known = (
            (contact.misses, position(peer) ^ target, peer)
            for bucket in self.buckets
            for peer, contact in bucket.items()
        )
        return [peer for *_, peer in heapq.nsmallest(count, known)]

    def addresses(self, peer: PeerId) -> tuple[str, ...]:
        """Where a contact said that it may be found."""
        contact = self._bucket(peer).get(peer)
        return contact.addresses if contact else ()

    def estimate(self, count: int = 8) -> float:
        """How many peers there are, from how near the nearest ``count`` contacts lie."""
        near = self.closest(position(self.me), count)
        if len(near) < count:
            return len(near) + 1
        return count * 2.0**BITS / (position(near[-1]) ^ position(self.me))

    def depth(self) -> int:
        """Index of the bucket with the nearest contact; -1 when there is none."""
        return max((i for i, bucket in enumerate(self.buckets) if bucket), default=-1)

    def _bucket(self, peer: PeerId) -> dict[PeerId, Contact]:
        distance = position(peer) ^ position(self.me)
        return self.buckets[BITS - max(distance.bit_length(), 1)]
