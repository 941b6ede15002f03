"""One replica of one document of named counters, sets, maps and registers, kept alike by anti-entropy."""

from __future__ import annotations

from asyncio import Task
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from hubless.errors import CheckpointError, ConfigError, NetworkError, did_you_mean
from hubless.net.crdt import deltas
from hubless.net.crdt.documents import Document, Updates
from hubless.net.crdt.exchange import OVERHEAD, Exchange, log
from hubless.net.crdt.persistence import Journal, whole, written
from hubless.net.crdt.replica import KNOWN, TAKEN, Replica
from hubless.net.crdt.types import Dot, GCounter, MVRegister, ORSet, PNCounter
from hubless.net.crdt.values import Value, encode, plain
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context

RUNNING, WAITING = 8, 32  # exchanges with others at a time; each may hold a frame
SEEN = 2048  # dots that one operation names as seen; where there are more, others take them away first


class CrdtStore:
    """A document that members change apart; all that exchange end with the same, byte for byte.

    net:     a network that runs
    doc:     the document's name; replicas of the same name meet under the protocol ``crdt/DOC``
    members: who may write and is asked, asked anew each time. Who has written stays a member, or what they wrote is
             not taken by replicas that have not seen it yet
    every:   seconds from one exchange with a random member to the next; 0: only when ``exchange`` is called
    folder:  where to keep the document; without one it lives in memory
    sync:    "sent": own operations are on disk before others can get them; "always": before the call returns
    counts:  what was dropped, by reason, and exchanges that "failed"

    Names of different kinds (``total``, ``counter``, ``map``, ``set``, ``register``, ``document``) are different
    states. Writing raises RecordRefused for what is too long, IntegrityError when this actor was cut off as an
    equivocator, OSError when it cannot be kept. Raises ConfigError for options that cannot be, CheckpointError for a
    damaged folder.
    """

    def __init__(
        self,
        net: Network,
        doc: str,
        members: Callable[[], Iterable[PeerId]],
        *,
        every: float = 1.0,
        folder: str | Path | None = None,
        sync: Literal["sent", "always"] = "sent",
    ) -> None:
        self.proto = f"crdt/{doc}"
        if not doc or len(self.proto) > net.limits.name:
            raise ConfigError(f"doc = {doc!r}: must have 1 to {net.limits.name - len('crdt/')} characters")
        if not 0 <= every < float("inf"):
            raise ConfigError(f"every = {every}: must be seconds, or 0 for never")
        self.net, self.doc, self.every = net, doc, every
        self.counts: Counter[str] = Counter()
        self._members = members
        self._documents: dict[str, Document] = {}
        self._replica = Replica(doc)
        self._exchange = Exchange(net, self.proto, self._replica, self._ask_members, self._durable, self.counts)
        self._served = net.serve(self.proto, self._answer, limit=RUNNING, queue=WAITING)
        self._journal: Journal | None = None
        self._task: Task[None] | None = None
        self._running: dict[PeerId, Task[None]] = {}
        try:
            if folder is not None:
                self._journal = Journal(folder, doc, net.peer_id, sync, net.limits.journal)
                self._restore(self._journal)
            if every:
                self._task = net.spawn(self._anti_entropy(), self.proto)
        except BaseException:
            self.close()
            raise

    # writing

    def incr(self, name: str, n: int = 1) -> None:
        """Count ``n`` more, or less where it is negative."""
        counter = self._replica.state("counter", name)
        assert isinstance(counter, PNCounter)
        delta = counter.incr(self.net.peer_id, n)
        self._write(deltas.Tally(name, delta.up.value(), delta.down.value()))

    def grow(self, name: str, n: int = 1) -> None:
        """Count ``n`` more on a counter that nobody can turn back."""
        total = self._replica.state("total", name)
        assert isinstance(total, GCounter)
        self._write(deltas.Grow(name, total.incr(self.net.peer_id, n).value()))

    def set(self, name: str, key: str, value: Value) -> None:
        """Give a key of a map a value; the last writer wins, by Lamport time."""
        self._write(deltas.Put(name, key, plain(value)))

    def unset(self, name: str, key: str) -> None:
        """Take a key of a map away."""
        self._write(deltas.Drop(name, key))

    def add(self, name: str, item: Value) -> None:
        """Add an item to a set."""
        dots = self._set(name).dots(item)
        for some in _portions(dots[SEEN:]):
            self._write(deltas.Remove(name, deltas.grouped(some)))
        self._write(deltas.Add(name, plain(item), deltas.grouped(dots[:SEEN])))

    def remove(self, name: str, item: Value) -> None:
        """Remove an item from a set, as far as this replica has seen it added; nothing where it is not in there."""
        for some in _portions(self._set(name).dots(item)):
            self._write(deltas.Remove(name, deltas.grouped(some)))

    def assign(self, name: str, value: Value) -> None:
        """Write a register in place of all values that this replica has seen there."""
        register = self._replica.state("register", name)
        assert isinstance(register, MVRegister)
        dots = sorted(register.live)
        for some in _portions(dots[SEEN:]):
            self._write(deltas.Clear(name, deltas.grouped(some)))
        self._write(deltas.Assign(name, plain(value), deltas.grouped(dots[:SEEN])))

    def document(self, name: str) -> Document:
        """A loro document of this name, to edit and to read. Raises ConfigError without the extra ``[crdt]``."""
        if name not in self._documents:
            self._documents[name] = Document(
                self.net.peer_id,
                lambda: cast(Updates, self._replica.state("document", name)),
                lambda era, update: self._write(deltas.Edit(name, era, update)),
                LIMITS.op - OVERHEAD,
            )
        return self._documents[name]

    # reading

    def value(self, name: str, kind: str | None = None) -> Value:
        """A counter as an int, a map as a dict, a set or register as a list in a fixed order, a document as a dict.

        None where nobody has written; without a kind the first in which somebody has. Raises ConfigError for a kind
        that is none.
        """
        if kind is not None and kind not in deltas.KINDS:
            raise ConfigError(f"kind = {kind!r}: {did_you_mean(kind, deltas.KINDS)}")
        for found in self._replica.kinds(name):
            if kind in (None, found):
                return self._replica.state(found, name).value()
        return None

    def canonical(self) -> bytes:
        """All that counts, but for signatures: the same bytes at all replicas that have seen the same."""
        return self._replica.canonical()

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex."""
        return self._replica.digest()

    def lengths(self) -> dict[PeerId, int]:
        """How many operations of each actor count here."""
        return {actor: len(chain) for actor, chain in sorted(self._replica.chains.items()) if chain}

    @property
    def equivocators(self) -> dict[PeerId, tuple[bytes, bytes]]:
        """Who told two stories, with the two signed operations that prove it to anybody."""
        pairs = sorted(self._replica.evidence.items())
        return {actor: (encode(one.pair()), encode(other.pair())) for actor, (one, other) in pairs}

    # exchanging

    async def exchange(self, peer: PeerId, timeout: float | None = None) -> None:
        """Have the same as another member, both ways.

        timeout: seconds for each question, asked twice at most; ``Timeouts.exchange`` without one

        Raises PeerUnreachable, RemoteError when it refuses, IntegrityError when it answers something else.
        """
        try:
            await self._exchange.run(peer, self.net.timeouts.exchange if timeout is None else timeout)
        finally:
            self._compact()

    def snapshot(self) -> bytes:
        """All operations and evidence, for ``load`` anywhere."""
        return written(self.doc, self.net.peer_id, self._replica.kept())

    def load(self, snapshot: bytes) -> None:
        """Take in a snapshot, whoever made it: every signature is checked. Raises IntegrityError for one not whole."""
        self._ask_members()
        for ops in whole(snapshot, self.doc):
            word = self._replica.take(ops)
            if word not in (TAKEN, KNOWN):
                self.counts[word] += 1
        self._compact()

    def close(self) -> None:
        """Stop exchanging, and let go of the folder; twice is the same as once."""
        for task in [self._task, *self._running.values()]:
            if task is not None:
                task.cancel()
        self.net.withdraw(self._served)
        if self._journal is not None:
            self._journal.close()

    async def _anti_entropy(self) -> None:
        due = self.net.now() + self.net.rng.random() * self.every
        while True:
            await self.net.sleep(max(0.0, due - self.net.now()))
            due = max(due + self.every, self.net.now())  # counted from beginning to beginning
            others = sorted(peer for peer in self._ask_members() if peer != self.net.peer_id)
            peer = self.net.rng.choice(others) if others else None
            if peer is not None and peer not in self._running and len(self._running) < RUNNING:
                self._running[peer] = self.net.spawn(self._begun(peer), self.proto)  # a slow one holds nobody up

    async def _begun(self, peer: PeerId) -> None:
        try:
            await self.exchange(peer)
        except (NetworkError, OSError) as error:
            self.counts["failed"] += 1
            log.debug("%s: exchange of %s: %s", self.net.peer_id[:8], self.doc, error)
        finally:
            self._running.pop(peer, None)

    async def _answer(self, ctx: Context, body: bytes) -> bytes:
        try:
            return await self._exchange.answer(ctx, body)
        finally:
            self._compact()

    def _ask_members(self) -> Mapping[PeerId, None]:
        members = {self.net.peer_id: None, **dict.fromkeys(self._members())}
        self._replica.allowed = members
        return members

    def _write(self, delta: deltas.Delta) -> Dot:
        if not 0 < len(delta.name) <= LIMITS.name:
            raise ConfigError(f"name = {delta.name!r}: must have 1 to {LIMITS.name} characters")
        op = self._replica.write(self.net.identity, delta)
        self._compact()
        return op.actor, op.seq

    def _set(self, name: str) -> ORSet:
        state = self._replica.state("set", name)
        assert isinstance(state, ORSet)
        return state

    # keeping

    def _restore(self, journal: Journal) -> None:
        for ops in journal.read():
            word = self._replica.take(tuple(op.believe() for op in ops))
            if word not in (TAKEN, KNOWN, "cut"):
                raise CheckpointError(f"{journal.folder}: an operation that does not follow from those before: {word}")
        self._replica.keep = journal.keep

    async def _durable(self) -> None:
        if self._journal is not None and self._journal.dirty:
            await self.net.run(self._journal.flush)

    def _compact(self) -> None:
        """Write a new snapshot when the log is long; one that cannot be written is tried again later."""
        if self._journal is not None and self._journal.due():
            try:
                self._journal.snapshot(self.snapshot())
            except OSError as error:
                log.warning("%s: no snapshot of %s: %s", self.net.peer_id[:8], self.doc, error)


def _portions(dots: list[Dot]) -> list[list[Dot]]:
    return [dots[start : start + SEEN] for start in range(0, len(dots), SEEN)]
