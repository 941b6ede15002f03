"""Gossip about gossip: peers tell each other what they know, and the telling itself decides the order.

Every so many seconds a peer asks one other, drawn at random, what it does not know itself: it names the last event that
it has of each creator. It is told the rest, tells the other in return what that one lacks, and each makes an event of
what it was told, with the records that wait. Nobody sends a vote: the order follows (``virtual_voting``). A frame that
is lost costs nothing but time, as the next question says again what is here. An event whose parents have not come waits
for them.

Source: Baird, SWIRLDS-TR-2016-01, section 4.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from hubless.errors import ConfigError, LedgerError, ProofError, UnknownParent, UnknownRecord
from hubless.ledger.ancestry import bits
from hubless.ledger.merkle import Log
from hubless.ledger.pending import Pending
from hubless.ledger.proofs import Proof
from hubless.ledger.record import Record
from hubless.ledger.store import Engine, Receipt
from hubless.ledger.suites import Hasher
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

    every:           seconds between two questions of a peer
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
        self._uncounted = Hasher(suite)
        self._sizes: dict[bytes, int] = {}  # roots that were given out
        net.serve(f"{name}/ask", self._asked)
        net.serve(f"{name}/told", self._told)

    async def start(self) -> None:
        """Take part."""
        self._create(NONE)
        self.net.spawn(self._ask_around(), f"{self.name} gossip")

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

    async def _ask_around(self) -> None:
        while True:
            await self.net.sleep(self.every * (0.5 + self.net.rng.random()))
            self.net.stats[f"reject:{self.name} unknown parent"] += self.early.expire(self.net.now())
            self.tell_one(self.net.rng.choice(self.others), "ask", _encode(self._tips()))

    def _tips(self) -> list[bytes]:
        """The last event that this peer has of each creator; all that it has are these and what they stand on."""
        tips = self.graph.tips[self.graph.graph.index[self.last]]
        return [self.graph.graph.hashes[tip] for tip in tips if tip >= 0]

    def _asked(self, ctx: Context, body: bytes) -> None:
        try:
            tips = _hashes(body)
        except msgspec.MsgspecError:
            self.drop("question")
            return
        self._tell(ctx.src, tips, self._tips())

    def _tell(self, peer: PeerId, tips: list[bytes], own: list[bytes]) -> None:
        """Tell a peer that has these tips what it lacks; with ``own`` tips, ask it to do the same."""
        graph, mask = self.graph.graph, 0
        for tip in tips:
            place = graph.index.get(tip)
            if place is not None and self.poll.has(place):
                mask |= graph.past[place]
        news = list(islice(bits(self.poll.have & ~mask), BATCH))
        head = self.last
        if len(news) == BATCH:  # the peer can stand on our head only when it has it
            mine = [item for item in news if self.graph.creator[item] == self.graph.creators[self.net.peer_id]]
            head = graph.hashes[mine[-1]] if mine else NONE
        self.tell_one(peer, "told", _encode((head, [self.gossip.raws[item] for item in news], own)))

    def _told(self, ctx: Context, body: bytes) -> None:
        try:
            head, raws, tips = _news(body)
        except msgspec.MsgspecError:
            self.drop("telling")
            return
        for raw in raws:
            self._take(raw)
        place = self.graph.graph.index.get(head)
        if place is not None and self.poll.has(place):
            self._create(head)
        if tips:
            self._tell(ctx.src, tips, [])

    def _take(self, raw: bytes) -> None:
        """Take an event in, and what waited for it."""
        ready = [raw]
        while ready:
            raw = ready.pop(0)
            item = self.gossip.places.get(raw)
            if item is not None and self.poll.has(item):
                continue
            try:
                item, key = self._read(raw, item)
            except UnknownParent as error:
                gone = self.early.wait(error.parent, raw, self.net.now())
                self.net.stats[f"reject:{self.name} too many early"] += gone
                continue
            except LedgerError as error:
                self.drop(type(error).__name__)
                continue
            except msgspec.MsgspecError:
                self.drop("event")
                continue
            self._accept(item)
            ready += self.early.release(key)

    def _read(self, raw: bytes, item: int | None) -> tuple[int, bytes]:
        """The place and the hash of an event that is new here. Raises UnknownParent, LedgerError, MsgspecError.

        What one peer of a shared ``Gossip`` has read and checked is the same for all; each pays for it.
        """
        graph = self.graph.graph
        if item is None:
            event = _event(raw)
            key = event.digest(self._uncounted)
            if not verify(event.creator, EVENT, key, event.signature):
                raise LedgerError(f"event {key.hex()[:8]}: not signed by its creator")
            for record in event.records:
                self._signed(record)
            item = self.gossip.add(key, event, raw)
        event, key = self.graph.events[item], graph.hashes[item]
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
        key = event.digest(self.hasher)
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


_encode = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(Event).decode
_record = msgspec.msgpack.Decoder(Record).decode
_news = msgspec.msgpack.Decoder(tuple[bytes, list[bytes], list[bytes]]).decode
_hashes = msgspec.msgpack.Decoder(list[bytes]).decode
