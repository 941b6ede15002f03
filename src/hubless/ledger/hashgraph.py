"""Gossip about gossip: peers tell each other what they know, and the telling itself decides the order.

Every ``every`` seconds a peer tells one other, drawn at random, all events that it does not know that one to have. Who
is told makes an event of it, with the records that wait. Nobody sends a vote: the order follows (``virtual_voting``).
An event whose parents have not come waits, and its bringer is told what the receiver has, so that a frame that was
lost is made good by the next one.

Source: Baird, SWIRLDS-TR-2016-01, section 4.
"""

from __future__ import annotations

import msgspec

from hubless.errors import ConfigError, LedgerError, ProofError, UnknownParent, UnknownRecord
from hubless.ledger.ancestry import bits
from hubless.ledger.merkle import Log
from hubless.ledger.pending import Pending
from hubless.ledger.proofs import Proof
from hubless.ledger.record import Record
from hubless.ledger.store import Engine, Receipt
from hubless.ledger.virtual_voting import NONE, Event, EventGraph, Poll
from hubless.net.identity import verify
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

EVENT = b"hubless/1/event"
BATCH = 2048  # events of one frame


class Gossip:
    """Events as bytes beside the graph of what they say. Peers of one simulation may share one: see ``EventGraph``."""

    def __init__(self, members: list[PeerId]) -> None:
        self.graph = EventGraph(sorted(members))
        self.raws: list[bytes] = []
        self.places: dict[bytes, int] = {}

    def add(self, key: bytes, event: Event, raw: bytes) -> int:
        """The place of an event. Raises what ``EventGraph.add`` raises."""
        item = self.graph.add(key, event)
        if item == len(self.raws):
            self.raws.append(raw)
        self.places[raw] = item
        return item


class Hashgraph(Engine):
    """One peer's hashgraph. Safe and live while fewer than a third of the members are faulty.

    every:           seconds between two tellings
    records_a_event: most records of one event
    """

    kind = "hashgraph"

    def __init__(
        self,
        net: Network,
        members: list[PeerId],
        *,
        name: str = "hashgraph",
        suite: str = "sha256",
        limit: int = 64 << 10,
        every: float = 0.5,
        records_a_event: int = 16,
        gossip: Gossip | None = None,
    ) -> None:
        super().__init__(net, members, name=name, suite=suite, limit=limit)
        if not every > 0 or records_a_event < 1:
            raise ConfigError(f"{name}.every = {every}: must be positive, with at least one record an event")
        self.every = every
        self.records_a_event = records_a_event
        self.gossip = Gossip(self.members) if gossip is None else gossip
        self.graph = self.gossip.graph
        self.poll = Poll(self.graph)
        self.last = NONE
        self.waiting: dict[bytes, bytes] = {}
        self.log = Log(self.hasher)  # ids in order
        self.where: dict[bytes, int] = {}
        self.spent: dict[bytes, bytes] = {}
        self.early: Pending[bytes] = Pending(net.timeouts.orphan, net.limits.orphans)
        self._sizes: dict[bytes, int] = {}  # roots that were given out
        self._knows: dict[PeerId, int] = dict.fromkeys(self.others, 0)  # events that a peer has, as far as we know
        self._newest: dict[PeerId, int] = {}
        net.serve(f"{name}/told", self._hear)
        net.serve(f"{name}/lacks", self._lacks)

    async def start(self) -> None:
        """Take part."""
        self._create(NONE)
        self.net.spawn(self._tell_around(), f"{self.name} gossip")

    async def append(self, record: Record) -> Receipt:
        """Put a record into the next event of this peer. Raises RecordTooLarge, SignatureError."""
        raw = record.encode()
        id = self.vet(raw).id(self.hasher)
        if id not in self.records:
            self.records[id] = self.waiting[id] = raw
        return Receipt(self.name, id, self.net.now())

    def root(self) -> bytes:
        """The Merkle root over the ids of all ordered records."""
        root = self.log.root()
        self._sizes[root] = len(self.log)
        return root

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps from a record to the root over the first so many ordered records."""
        root = self.root() if root is None else root
        place, size = self.where.get(id), self._size(root)
        if place is None or size is None:
            raise UnknownRecord(f"{self.name}: record {id.hex()[:8]} is not ordered here, or the root is not known")
        if place >= size:
            raise ProofError(f"{self.name}: record {id.hex()[:8]} came after that root")
        return Proof(self.kind, self.hasher.suite, self.log.path(place, size))

    def audit(self) -> list[str]:
        """Records that are not what they say, and an order that does not hold them."""
        faults = super().audit()
        faults += [f"record {id.hex()[:8]}: ordered, and not here" for id in self.where if id not in self.records]
        return faults

    def stored(self) -> int:
        """Bytes of all events of this peer, with the records in them, and of records that wait."""
        events = sum(len(self.gossip.raws[item]) for item in bits(self.poll.have))
        return events + sum(map(len, self.waiting.values()))

    def _size(self, root: bytes) -> int | None:
        """How many records a root is over; one that another peer gave out is looked for among the late ones."""
        if root not in self._sizes:
            for size in range(len(self.log), 0, -1):
                if self.log.root(size) == root:
                    self._sizes[root] = size
                    break
        return self._sizes.get(root)

    async def _tell_around(self) -> None:
        while True:
            await self.net.sleep(self.every * (0.5 + self.net.rng.random()))
            self.net.stats[f"reject:{self.name} unknown parent"] += self.early.expire(self.net.now())
            self.tell_news(self.net.rng.choice(self.others))

    def tell_news(self, peer: PeerId) -> None:
        """Tell one peer what it does not have, as far as we know."""
        news = list(bits(self.poll.have & ~self._knows[peer]))[:BATCH]
        for item in news:
            self._knows[peer] |= 1 << item
        head = self.last
        if len(news) == BATCH:  # it may stand on our head only when it has it
            own = [item for item in news if self.graph.creator[item] == self.graph.creators[self.net.peer_id]]
            head = self.graph.graph.hashes[own[-1]] if own else NONE
        self.tell_one(peer, "told", _encode((head, [self.gossip.raws[item] for item in news])))

    def _hear(self, ctx: Context, body: bytes) -> None:
        try:
            head, raws = _told(body)
        except msgspec.MsgspecError:
            self.drop("telling")
            return
        if ctx.src not in self._knows:
            self.drop("stranger")
            return
        missing = False
        for raw in raws:
            missing |= self._take(raw, ctx.src)
        place = self.graph.graph.index.get(head)
        if place is not None and self.poll.has(place):
            self._knows[ctx.src] |= self.graph.graph.past[place]
            self._create(head)
        elif missing:
            have = [self.graph.graph.hashes[tip] for tip in self.graph.tips[self._place(self.last)] if tip >= 0]
            self.tell_one(ctx.src, "lacks", _encode(have))

    def _lacks(self, ctx: Context, body: bytes) -> None:
        """A peer did not get what it was told: it has no more than what these events stand on."""
        try:
            have = _hashes(body)
        except msgspec.MsgspecError:
            self.drop("lack")
            return
        if ctx.src in self._knows:
            places = [self.graph.graph.index[key] for key in have if key in self.graph.graph]
            mask = 0
            for place in places:
                mask |= self.graph.graph.past[place] if self.poll.has(place) else 0
            self._knows[ctx.src] = mask

    def _take(self, raw: bytes, src: PeerId) -> bool:
        """Take an event in, and what waited for it; whether a parent is missing."""
        ready, missing = [raw], False
        while ready:
            raw = ready.pop(0)
            try:
                item, key = self._read(raw)
            except UnknownParent as error:
                missing = True
                gone = self.early.wait(error.parent, raw, self.net.now())
                self.net.stats[f"reject:{self.name} too many early"] += gone
                continue
            except (LedgerError, msgspec.MsgspecError) as error:
                self.drop(type(error).__name__)
                continue
            if src in self._knows:
                self._knows[src] |= 1 << item
            if not self.poll.has(item):
                self._accept(item)
                ready += self.early.release(key)
        return missing

    def _read(self, raw: bytes) -> tuple[int, bytes]:
        """An event's place and hash. Raises UnknownParent, LedgerError, MsgspecError.

        What one peer of a shared ``Gossip`` has read and checked is the same for all; each pays for it.
        """
        graph = self.graph.graph
        item = self.gossip.places.get(raw)
        if item is None:
            event = _event(raw)
            key = event.hash(self.hasher)
            if not verify(event.creator, EVENT, key, event.signature):
                raise LedgerError(f"event {key.hex()[:8]}: not signed by its creator")
            for record in event.records:
                self.vet(record)
            item = self.gossip.add(key, event, raw)
        event, key = self.graph.events[item], graph.hashes[item]
        if not self.poll.has(item):
            self.work["verified"] += 1 + len(event.records)
            self.work["hashes"] += 3 + 2 * len(event.records)
            for parent in (event.self_parent, event.other_parent):
                if parent != NONE and not self.poll.has(graph.index[parent]):
                    text = f"event {key.hex()[:8]} stands on {parent.hex()[:8]}, which is not here"
                    raise UnknownParent(text, parent)
        return item, key

    def _create(self, other: bytes) -> None:
        """Make an event of what was heard, with the records that wait."""
        ids = list(self.waiting)[: self.records_a_event]
        records = [self.waiting.pop(id) for id in ids]
        event = Event(self.net.peer_id, self.last, other, records, self.net.now())
        key = event.hash(self.hasher)
        self.work["signatures"] += 1
        event = msgspec.structs.replace(event, signature=self.net.identity.sign(EVENT, key))
        self.last = key
        self._accept(self.gossip.add(key, event, _encode(event)))

    def _accept(self, item: int) -> None:
        for place, _ in self.poll.add(item):
            for raw in self.graph.events[place].records:
                self._order(raw)

    def _order(self, raw: bytes) -> None:
        made = _record(raw)
        id = made.id(self.hasher)
        if id in self.where or (made.spends and self.spent.setdefault(made.spends, id) != id):
            return
        self.where[id] = len(self.log)
        self.log.append(id)
        self.records[id] = raw
        self.settle(id)

    def _place(self, key: bytes) -> int:
        return self.graph.graph.index[key]


_encode = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(Event).decode
_record = msgspec.msgpack.Decoder(Record).decode
_told = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
_hashes = msgspec.msgpack.Decoder(list[bytes]).decode
