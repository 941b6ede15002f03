"""One interface to every engine that keeps records, and what all engines on a network share.

An engine lives on one peer: its replica, its part in the protocol. What an engine cannot do it says by the type of
error, and names the engines that can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

import msgspec

from hubless.errors import (
    CapabilityError,
    ConfigError,
    LedgerError,
    NetworkError,
    ProofError,
    RecordTooLarge,
    UnknownRecord,
)
from hubless.ledger import proofs, record
from hubless.ledger.proofs import Proof
from hubless.ledger.record import Record
from hubless.ledger.suites import Hasher
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

Capability = Literal["order", "finality", "proof", "versions", "overwrite"]
# what each engine has. order: one sequence for all peers; finality: what is final is never undone, by agreement of
# the peers; proof: leads from a record to a digest; versions: later ones of a key; overwrite: in place, unseen
OFFERS: dict[str, frozenset[Capability]] = {
    "central": frozenset({"order", "overwrite"}),
    "chain": frozenset({"order", "finality", "proof"}),
    "tangle": frozenset({"finality", "proof"}),
    "dht": frozenset({"proof", "versions"}),
    "hashgraph": frozenset({"order", "finality", "proof"}),
}


def offering(capability: Capability) -> list[str]:
    """Engines that have a capability."""
    return sorted(engine for engine, has in OFFERS.items() if capability in has)


@dataclass(frozen=True)
class Receipt:
    """What ``append`` gives: where the record went, the id to ask for, when; with ``key`` what opens it, if sealed."""

    engine: str
    id: bytes
    time: float
    key: bytes = b""


@dataclass(frozen=True)
class Finality:
    """How sure a record is here: unknown, pending, or final since ``time`` (unix seconds)."""

    state: Literal["unknown", "pending", "final"]
    time: float | None = None


class RecordStore(Protocol):
    """What every engine gives."""

    @property
    def kind(self) -> str:
        """Its row in ``OFFERS``."""

    @property
    def suite(self) -> str:
        """The hash suite of its ids and proofs."""

    @property
    def limit(self) -> int:
        """Most bytes of an encoded record."""

    async def append(self, record: Record) -> Receipt:
        """Hand a record in. Raises RecordTooLarge, SignatureError, NetworkError."""

    async def get(self, id: bytes) -> Record:
        """The record with that id. Raises UnknownRecord."""

    def root(self) -> bytes:
        """A digest [32] over what is final here now, to trust later. Raises CapabilityError."""

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps from the record to a root that was given out, or to the present one. Raises UnknownRecord, ProofError,
        CapabilityError."""

    def verify(self, record: Record, proof: Proof, root: bytes) -> None:
        """Raises ProofError or SignatureError unless the proof leads from the record to the trusted root."""

    def finality(self, id: bytes) -> Finality:
        """How sure a record is, as seen from this peer."""

    def order(self) -> list[bytes]:
        """Ids of what is final, in the order that all peers agree on. Raises CapabilityError."""

    def audit(self) -> list[str]:
        """What is wrong with this peer's own replica, in words; needs no other peer."""

    def stored(self) -> int:
        """Bytes that this peer keeps."""


class Engine:
    """What engines share: members, the replica's records, what is settled and when, costs, reading through a peer.

    members: all peers of this ledger, this one among them
    records: encoded records by id;  settled: when each became final here
    work:    "hashes", "signatures" made, "verified" signatures, "undone" finalities
    watch:   called with the id of every record that becomes final here, in that order
    """

    kind: ClassVar[str] = ""

    def __init__(self, net: Network, members: Sequence[PeerId], *, name: str, suite: str, limit: int) -> None:
        if net.peer_id not in members:
            raise ConfigError(f"{name}.members: this peer, {net.peer_id[:8]}, must be one of them")
        self.net = net
        self.name = name
        self.suite = suite
        self.limit = limit
        self.members = sorted(members)
        self.others = [peer for peer in self.members if peer != net.peer_id]
        self.work: Counter[str] = Counter()
        self.hasher = Hasher(suite, self.work)
        self.records: dict[bytes, bytes] = {}
        self.settled: dict[bytes, float] = {}
        self.watch: list[Callable[[bytes], None]] = []
        net.serve(f"{name}/read", self._read_for)

    async def start(self) -> None:
        """Take part in the protocol."""

    async def append(self, record: Record) -> Receipt:
        """Hand a record in. Raises RecordTooLarge, SignatureError, NetworkError."""
        raise NotImplementedError

    def need(self, capability: Capability) -> None:
        """Raises CapabilityError unless this engine has it."""
        if capability not in OFFERS[self.kind]:
            raise CapabilityError(self.kind, capability, offering(capability))

    def vet(self, raw: bytes) -> Record:
        """A record that may be taken. Raises RecordTooLarge, SignatureError, LedgerError."""
        self.work["verified"] += 1
        return self._signed(raw)

    def _signed(self, raw: bytes) -> Record:
        if len(raw) > self.limit:
            raise RecordTooLarge(f"{self.name}: a record of {len(raw):,} bytes; at most {self.limit:,}")
        made = record.decode(raw)
        made.check()
        return made

    async def get(self, id: bytes) -> Record:
        """The record with that id, from this replica. Raises UnknownRecord."""
        return self.held(id)

    def held(self, id: bytes) -> Record:
        """The record of this replica. Raises UnknownRecord."""
        raw = self.records.get(id)
        if raw is None:
            raise UnknownRecord(f"{self.name}: no record {id.hex()[:8]} here")
        return record.decode(raw)

    def root(self) -> bytes:
        """A digest over what is final here."""
        self.need("proof")
        raise NotImplementedError

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps from a record to a root."""
        self.need("proof")
        raise NotImplementedError

    def verify(self, record: Record, proof: Proof, root: bytes) -> None:
        """Raises ProofError or SignatureError unless the proof leads from the record to the root."""
        self.need("proof")
        if proof.engine != self.kind:
            raise ProofError(f"{self.kind}: the proof is one of {proof.engine}")
        self.work["verified"] += 1
        proofs.check(record, proof, root, self.hasher)

    def trusted(self, id: bytes) -> bytes:
        """A root that this peer trusts, that other members can prove to, and that a final record is under."""
        return self.root()

    async def read(self, peer: PeerId, id: bytes, root: bytes | None = None) -> Record:
        """A record as another peer has it, checked against a root that this one trusts, by default ``trusted``.

        Raises ProofError or SignatureError when what came is not what stands under the root, UnknownRecord when the
        peer has none, NetworkError when it does not answer.
        """
        self.need("proof")
        root = self.trusted(id) if root is None else root
        answer = await self.net.request(peer, f"{self.name}/read", _encode((id, root)))
        if not answer:
            raise UnknownRecord(f"{self.name}: {peer[:8]} has no record {id.hex()[:8]} under that root")
        try:
            raw, proof = _pair(answer)
            made = record.decode(raw)
        except (msgspec.MsgspecError, LedgerError) as error:
            raise ProofError(f"{self.name}: {peer[:8]} answered what is no record with a proof: {error}") from None
        self.verify(made, proofs.decode(proof), root)
        if made.id(self.hasher) != id:
            raise ProofError(f"{self.name}: {peer[:8]} answered with another record than {id.hex()[:8]}")
        return made

    def finality(self, id: bytes) -> Finality:
        """How sure a record is, as seen from this peer."""
        if id in self.settled:
            return Finality("final", self.settled[id])
        return Finality("pending" if id in self.records else "unknown")

    def order(self) -> list[bytes]:
        """Ids of what is final, in the order that all peers agree on."""
        self.need("order")
        return list(self.settled)

    def audit(self) -> list[str]:
        """Records of this replica that are not what their id or their author says."""
        faults = []
        for id, raw in self.records.items():
            try:
                made = self.vet(raw)
                if made.id(self.hasher) != id:
                    faults.append(f"record {id.hex()[:8]}: its bytes have the id {made.id(self.hasher).hex()[:8]}")
            except LedgerError as error:
                faults.append(f"record {id.hex()[:8]}: {error}")
        return faults

    def stored(self) -> int:
        """Bytes of the records that this peer keeps."""
        return sum(map(len, self.records.values()))

    def settle(self, id: bytes) -> None:
        """A record is final here from now on."""
        if id not in self.settled:
            self.settled[id] = self.net.now()
            for heard in self.watch:
                heard(id)

    def tell(self, proto: str, body: bytes) -> None:
        """Send to all other members; who cannot be reached is not waited for."""
        for peer in self.others:
            self.tell_one(peer, proto, body)

    def tell_one(self, peer: PeerId, proto: str, body: bytes) -> None:
        """Send to one member, now or never."""
        try:
            self.net.send(peer, f"{self.name}/{proto}", body)
        except NetworkError:
            self.net.stats["ledger not sent"] += 1

    def drop(self, why: str) -> None:
        """Count what a peer sent and cannot be used."""
        self.net.stats[f"reject:{self.name} {why}"] += 1

    def _read_for(self, _: Context, body: bytes) -> bytes:
        """A record with its proof, for a reader; nothing when there is none."""
        try:
            id, root = _pair(body)
            return _encode((self.held(id).encode(), self.prove(id, root).encode()))
        except (msgspec.MsgspecError, LedgerError):
            return b""


assert all(has <= set(get_args(Capability)) for has in OFFERS.values())
_encode = msgspec.msgpack.Encoder().encode
_pair = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode
