"""Hashgraph: an order that everybody works out alone from who told whom what, without sending a vote.

An event stands on its creator's last one and on one of the peer it was told by. x sees y when y is an ancestor and x
knows of no fork by y's creator. x strongly sees y when the events of more than two thirds of DISTINCT creators, all
seen by x, see y. A round begins at the event that strongly sees more than two thirds of the witnesses (first events)
of the round before. Later witnesses vote whether a witness is famous, by what the witnesses say that they strongly
see; every tenth round they toss a coin where no two thirds agree. An event is received in the first round whose famous
witnesses all descend from it, at the median of the times at which it reached them.
Source: Baird, "The Swirlds Hashgraph Consensus Algorithm", SWIRLDS-TR-2016-01, sections 5 and 6 (figures 4 to 7).

The report tosses coins and whitens with signatures. A hostile creator may make two valid Ed25519 signatures of one
event and show each to half of the peers, so here the event's hash, of which there is one, takes their place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import reduce
from operator import and_, or_

import msgspec

from hubless.errors import LedgerError, NotAuthority
from hubless.ledger import merkle
from hubless.ledger.ancestry import Ancestry, bits
from hubless.ledger.suites import DIGEST, EVENT, META, Hasher

SLOT = 16  # bits of a count of creators
FULL = (1 << SLOT) - 1
COIN = 10  # every so many rounds of voting is a coin round
NONE = bytes(DIGEST)  # the parent of a creator's first event


class Event(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One thing that a creator told: what it knew, what is new, when.

    self_parent, other_parent: hashes [32], ``NONE`` where there is none
    records: encoded records;  time: of the creator's clock;  signature: over the event's hash
    """

    creator: str
    self_parent: bytes
    other_parent: bytes
    records: list[bytes]
    time: float
    signature: bytes = b""

    def digest(self, hasher: Hasher) -> bytes:
        """The event's digest [32]; the signature is not in it."""
        records = merkle.root(hasher, [hasher(META, record) for record in self.records])
        meta = hasher(META, msgspec.msgpack.encode((self.creator, self.time)))
        return hasher(EVENT, self.self_parent, self.other_parent, records, meta)


class EventGraph:
    """Events and what follows from the ancestry of each alone: round, witness, what it strongly sees, its votes.

    That is the same for whoever has the event, so that all peers of one simulation may share one graph and each work
    out only what depends on which events it has (``Poll``).
    """

    def __init__(self, creators: list[str]) -> None:
        self.creators = {name: i for i, name in enumerate(creators)}
        self.size = len(creators)
        self.graph = Ancestry()
        self.events: list[Event] = []
        self.creator: list[int] = []
        self.parent: list[int] = []  # place of the self parent, -1 for none
        self.round: list[int] = []
        self.witness: list[bool] = []
        self.tips: list[tuple[int, ...]] = []  # an event's latest ancestor of each creator, -1 for none
        self.forkers: list[int] = []  # bits of creators of which an event knows a fork
        self.witnesses: dict[int, list[int]] = {}
        self._below: list[int] = []  # witnesses of its round that an event descends from: see ``_near``
        self._strong: dict[int, list[int]] = {}
        self._votes: dict[tuple[int, int], bool] = {}
        self._decided: dict[tuple[int, int], bool | None] = {}
        self._batches: dict[tuple[tuple[int, ...], int], list[tuple[int, float]]] = {}

    def many(self, count: int) -> bool:
        """More than two thirds of all creators."""
        return 3 * count > 2 * self.size

    def add(self, key: bytes, event: Event) -> int:
        """The place of an event. Raises UnknownParent, NotAuthority, LedgerError for a self parent of somebody else."""
        known = self.graph.index.get(key)
        if known is not None:
            return known
        if event.creator not in self.creators:
            raise NotAuthority(f"event of {event.creator[:8]}: not one of the {self.size} creators")
        who = self.creators[event.creator]
        parents = [parent for parent in (event.self_parent, event.other_parent) if parent != NONE]
        before = self.graph.index.get(event.self_parent)
        if before is not None and self.creator[before] != who:
            raise LedgerError(f"event {key.hex()[:8]}: its self parent is another creator's")
        item = self.graph.add(key, parents)
        places = [self.graph.index[parent] for parent in parents]
        self.events.append(event)
        self.creator.append(who)
        self.parent.append(-1 if before is None else before)
        self._merge_tips(item, who, self.parent[item], places)
        base = max((self.round[place] for place in places), default=1)
        below = reduce(or_, (self._below[place] for place in places if self.round[place] == base), 0)
        self._below.append(below)
        self.round.append(base + self.many(len(self._near(item, base))))
        self.witness.append(before is None or self.round[item] > self.round[before])
        if self.round[item] > base:
            self._below[item] = 0
        if self.witness[item]:
            peers = self.witnesses.setdefault(self.round[item], [])
            self._below[item] |= 1 << SLOT * len(peers)
            peers.append(item)
        return item

    def _near(self, item: int, base: int) -> list[int]:
        """The witnesses of round ``base``, that of its parents, that an event strongly sees.

        Each event has a number with a slot for every witness of its round, 1 where it descends from it: the sum over an
        event's tips has in each slot how many creators' events descend from that witness.
        """
        forkers, below, rounds = self.forkers[item], self._below, self.round
        total = below[item]
        for c, tip in enumerate(self.tips[item]):
            if tip >= 0 and tip != item and rounds[tip] == base and not forkers >> c & 1:
                total += below[tip]
        near = []
        for w in self.witnesses.get(base, ()):
            if self.many(total & FULL) and self.sees(item, w):
                near.append(w)
            total >>= SLOT
        return near

    def _merge_tips(self, item: int, who: int, before: int, places: list[int]) -> None:
        tips, forkers = [-1] * self.size, 0
        for place in places:
            forkers |= self.forkers[place]
            for c, tip in enumerate(self.tips[place]):
                if tip < 0 or tip == tips[c] or (tips[c] >= 0 and self.graph.descends(tips[c], tip)):
                    continue
                if tips[c] >= 0 and not self.graph.descends(tip, tips[c]):
                    forkers |= 1 << c
                tips[c] = tip
        if tips[who] != before:  # it knows of an event of its own that it does not stand on
            forkers |= 1 << who
        tips[who] = item
        self.tips.append(tuple(tips))
        self.forkers.append(forkers)

    def sees(self, x: int, y: int) -> bool:
        """Whether y is an ancestor of x, and x knows of no fork by its creator."""
        return self.graph.descends(x, y) and not self.forkers[x] >> self.creator[y] & 1

    def strongly_sees(self, x: int, y: int) -> bool:
        """Whether x sees events of more than two thirds of distinct creators that see y."""
        if not self.sees(x, y):
            return False
        past, forkers = self.graph.past, self.forkers[x]
        count = sum(tip >= 0 and past[tip] >> y & 1 and not forkers >> c & 1 for c, tip in enumerate(self.tips[x]))
        return self.many(count)

    def strong(self, y: int) -> list[int]:
        """The witnesses of the round before y's that the witness y strongly sees."""
        if y not in self._strong:
            earlier = self.witnesses.get(self.round[y] - 1, ())
            self._strong[y] = [w for w in earlier if self.strongly_sees(y, w)]
        return self._strong[y]

    def vote(self, y: int, x: int) -> bool:
        """Whether the witness y holds the earlier witness x for famous."""
        self.decide(y, x)
        return self._votes[y, x]

    def decide(self, y: int, x: int) -> bool | None:
        """What y's vote decides about x: famous or not, or nothing yet."""
        if (y, x) in self._decided:
            return self._decided[y, x]
        distance = self.round[y] - self.round[x]
        decided: bool | None = None
        if distance == 1:
            vote = self.sees(y, x)
        else:
            voters = self.strong(y)
            ayes = sum(self.vote(w, x) for w in voters)
            vote = 2 * ayes >= len(voters)
            clear = self.many(max(ayes, len(voters) - ayes))
            if distance % COIN == 0:
                vote = vote if clear else bool(self.graph.hashes[y][-1] & 1)
            elif clear:
                decided = vote
        self._votes[y, x], self._decided[y, x] = vote, decided
        return decided

    def batch(self, famous: tuple[int, ...], before: int) -> list[tuple[int, float]]:
        """Events that all the famous witnesses descend from, without those in ``before``: place and time, in order."""
        known = self._batches.get((famous, before))
        if known is None:
            new = reduce(and_, (self.graph.past[w] for w in famous)) & ~before
            white = hashlib.sha256(b"".join(self.graph.hashes[w] for w in famous)).digest()
            keyed = [(self._median(famous, x), _xor(self.graph.hashes[x], white), x) for x in bits(new)]
            known = self._batches[famous, before] = [(x, time) for time, _, x in sorted(keyed)]
        return known

    def _median(self, famous: tuple[int, ...], x: int) -> float:
        times = sorted(self.events[self._reached(w, x)].time for w in famous)
        return times[len(times) // 2]

    def _reached(self, z: int, x: int) -> int:
        """The first self ancestor of z that descends from x."""
        while (before := self.parent[z]) >= 0 and self.graph.descends(before, x):
            z = before
        return z


@dataclass
class Poll:
    """One peer's view: the events it has, whose fame it knows, and the order that follows.

    order: places and consensus times of events, as far as it is decided
    round: the last round whose famous witnesses are all known
    """

    graph: EventGraph
    have: int = 0
    round: int = 0
    order: list[tuple[int, float]] = field(default_factory=list)
    famous: dict[int, bool] = field(default_factory=dict)
    witnesses: dict[int, list[int]] = field(default_factory=dict)
    received: int = 0

    def has(self, item: int) -> bool:
        """Whether this peer has the event."""
        return bool(self.have >> item & 1)

    def add(self, item: int) -> list[tuple[int, float]]:
        """Take in an event whose parents are here; what that adds to the order."""
        if self.has(item):
            return []
        self.have |= 1 << item
        graph = self.graph
        if not graph.witness[item]:
            return []
        mine = graph.round[item]
        self.witnesses.setdefault(mine, []).append(item)
        voters = [(r, y) for r in sorted(self.witnesses) if r > mine for y in self.witnesses[r]]
        for x in (x for r in range(self.round + 1, mine) for x in self.witnesses.get(r, ())):
            self._hear(item, x)
        for _, y in voters:
            self._hear(y, item)
        return self._advance()

    def _hear(self, y: int, x: int) -> None:
        if x not in self.famous:
            decided = self.graph.decide(y, x)
            if decided is not None:
                self.famous[x] = decided

    def _advance(self) -> list[tuple[int, float]]:
        start = len(self.order)
        while True:
            candidates = self.witnesses.get(self.round + 1, [])
            famous = [x for x in candidates if self.famous.get(x)]
            if not self.graph.many(len(famous)) or any(x not in self.famous for x in candidates):
                return self.order[start:]
            self.round += 1
            batch = self.graph.batch(self._unique(famous), self.received)
            self.order += batch
            for x, _ in batch:
                self.received |= 1 << x

    def _unique(self, famous: list[int]) -> tuple[int, ...]:
        """Famous witnesses, without those of a creator that has two; by hash, as places differ from graph to graph."""
        by_creator: dict[int, list[int]] = {}
        for x in famous:
            by_creator.setdefault(self.graph.creator[x], []).append(x)
        single = [own[0] for own in by_creator.values() if len(own) == 1]
        return tuple(sorted(single, key=lambda x: self.graph.graph.hashes[x]))


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
