"""Whom a peer knows, by distance: the k-buckets of Kademlia (Maymounkov and Mazieres 2002, section 2.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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

    peer: PeerId
    key: bytes
    place: int
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
        self.buckets: dict[int, dict[PeerId, Contact]] = {}  # only those that ever had a contact
        self._place = position(me)
        self._size: float | None = None  # as estimated; None when the table has changed since

    def __len__(self) -> int:
        return sum(map(len, self.buckets.values()))

    def __contains__(self, peer: PeerId) -> bool:
        return peer != self.me and peer in self._bucket(peer)

    def seen(self, peer: PeerId, addresses: Sequence[str] = ()) -> None:
        """``peer`` spoke. Addresses it gave replace those it gave before."""
        if peer == self.me:
            return
        bucket = self._bucket(peer)
        contact = bucket.pop(peer, None) or self._new(peer)
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
                self._size = None

    def closest(self, target: int, count: int) -> list[PeerId]:
        """At most ``count`` contacts, nearest first; those that missed their last step come after all others."""
        return [contact.peer for contact in self.contacts(target, count)]

    def contacts(self, target: int, count: int) -> list[Contact]:
        """As ``closest``, with all that is known of them."""
        found: list[Contact] = []
        missed: list[tuple[int, Contact]] = []
        for group in self._outward(target):
            fresh: list[tuple[int, Contact]] = []
            for bucket in group:
                for contact in bucket.values():
                    (missed if contact.misses else fresh).append((contact.place ^ target, contact))
            fresh.sort()
            found += [contact for _, contact in fresh[: count - len(found)]]
            if len(found) == count:
                return found
        return found + [contact for _, contact in sorted(missed)[: count - len(found)]]

    def estimate(self, count: int = 8) -> float:
        """How many peers there are, from how near the nearest ``count`` contacts lie."""
        if self._size is None:
            near = self.closest(self._place, count)
            few = len(near) < count
            self._size = len(near) + 1 if few else count * 2.0**BITS / (position(near[-1]) ^ self._place)
        return self._size

    def depth(self) -> int:
        """Index of the bucket with the nearest contact; -1 when there is none."""
        return max((index for index, bucket in self.buckets.items() if bucket), default=-1)

    def _outward(self, target: int) -> Iterator[list[dict[PeerId, Contact]]]:
        """Groups of buckets, every contact of a group nearer to ``target`` than any of the next."""
        own, buckets = self._index(target), self.buckets
        if own in buckets:
            yield [buckets[own]]
        yield [bucket for index, bucket in buckets.items() if index > own]  # all differ from the target in that bit
        for index in sorted((index for index in buckets if index < own), reverse=True):
            yield [buckets[index]]

    def _new(self, peer: PeerId) -> Contact:
        self._size = None
        return Contact(peer, bytes.fromhex(peer), position(peer))

    def _index(self, place: int) -> int:
        return BITS - max((place ^ self._place).bit_length(), 1)

    def _bucket(self, peer: PeerId) -> dict[PeerId, Contact]:
        return self.buckets.setdefault(self._index(position(peer)), {})
