"""Records at the peers nearest to their hash: any number of them, in no order.

The id of a record is the digest of what it says, so nobody can put another under it, and each is final as soon as it is
there: nothing can conflict with it. What can happen is that all its holders leave. A key may have versions: each names
the one before it, so that the last one's digest stands for the whole history.
"""

from __future__ import annotations

import hashlib

import msgspec

from hubless.errors import LedgerError, ProofError, RecordTooLarge, UnknownRecord
from hubless.ledger import record
from hubless.ledger.merkle import Log
from hubless.ledger.proofs import Proof, Step
from hubless.ledger.record import Record
from hubless.ledger.store import Engine, Receipt
from hubless.ledger.suites import META, VERSION, Hasher
from hubless.net.network import Network
from hubless.net.services.shelf import Record as Kept
from hubless.net.transports.transport import PeerId

ENVELOPE = 256  # bytes that the DHT's own record needs beside the value
FIRST = bytes(32)  # what stands before the first version


class Version(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One version of a key: the digest of the one before, the id of the record, the key and how many came before."""

    prev: bytes
    id: bytes
    key: bytes
    number: int

    def meta(self, hasher: Hasher) -> bytes:
        """The digest of what is no digest in it."""
        return hasher(META, _encode((self.key, self.number)))

    def digest(self, hasher: Hasher) -> bytes:
        """The version's digest [32]."""
        return hasher(VERSION, self.prev, self.id, self.meta(hasher))


class DhtStore(Engine):
    """One peer's part of a store over Kademlia. ``members`` may be only those that are known; the DHT finds the rest.

    replicas: peers that keep a record;  life: seconds after which it is renewed by who put it, at half of them
    """

    kind = "dht"

    def __init__(
        self,
        net: Network,
        members: list[PeerId],
        *,
        name: str = "dht",
        suite: str = "sha256",
        replicas: int = 8,
        life: float = 3600.0,
    ) -> None:
        super().__init__(net, members, name=name, suite=suite, limit=net.limits.record - ENVELOPE)
        self.replicas = replicas
        self.life = life
        self.log = Log(self.hasher)  # ids that this peer put
        self.where: dict[bytes, int] = {}
        self.rounds: list[int] = []  # of each lookup by ``get``
        self._sizes: dict[bytes, int] = {}

    async def start(self) -> None:
        """Enter the DHT through a few of the members."""
        await self.net.dht.join(self.others[:3])

    async def append(self, record: Record) -> Receipt:
        """Put a record at the nearest peers. Raises RecordTooLarge, SignatureError, RecordRefused."""
        raw = record.encode()
        id = self.vet(raw).id(self.hasher)
        await self._put(id, raw)
        if id not in self.where:
            self.where[id] = len(self.log)
            self.log.append(id)
        self.settle(id)
        return Receipt(self.name, id, self.net.now())

    async def get(self, id: bytes) -> Record:
        """Find a record and check it. Raises UnknownRecord.

        What is put under the id and is not the record is passed over and counted; more holders are asked then.
        """
        for enough in (1, self.replicas, 2 * self.replicas):
            found = await self.net.get(id, enough=enough)
            if enough == 1:
                self.rounds.append(self.net.records.last.rounds)
            for kept in found:
                made = self._record(kept.value)
                if made is not None and made.id(self.hasher) == id:
                    return made
                self.drop("record")
            if not found:
                break
        raise UnknownRecord(f"{self.name}: no record {id.hex()[:8]} was found")

    def held(self, id: bytes) -> Record:
        """The record that this peer keeps for others. Raises UnknownRecord."""
        if id in self.records:
            return record.decode(self.records[id])
        for kept, _ in self._shelf(id):
            try:
                return record.decode(kept.value)
            except LedgerError:
                continue
        raise UnknownRecord(f"{self.name}: no record {id.hex()[:8]} here")

    def root(self) -> bytes:
        """The Merkle root over the ids of all records that this peer put."""
        root = self.log.root()
        self._sizes[root] = len(self.log)
        return root

    def trusted(self, id: bytes) -> bytes:
        """The id, which is a digest of the record."""
        return id

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps to a root over what this peer put; none to the id itself, which is a digest of the record."""
        if root == id:
            return Proof(self.kind, self.hasher.suite, [])
        root = self.root() if root is None else root
        place, size = self.where.get(id), self._sizes.get(root)
        if place is None or size is None:
            raise UnknownRecord(f"{self.name}: record {id.hex()[:8]} or that root is not this peer's")
        if place >= size:
            raise ProofError(f"{self.name}: record {id.hex()[:8]} came after that root")
        return Proof(self.kind, self.hasher.suite, self.log.path(place, size))

    async def update(self, key: bytes, record: Record) -> bytes:
        """Put a record as the next version of this peer's ``key``; the digest that stands for all its versions.

        Raises what ``append`` raises.
        """
        before = await self.head(key, self.net.peer_id)
        receipt = await self.append(record)
        prev = before.digest(self.hasher) if before else FIRST
        version = Version(prev, receipt.id, key, before.number + 1 if before else 0)
        raw, digest = _encode(version), version.digest(self.hasher)
        await self._put(digest, raw)
        await self._put(hashlib.sha256(key).digest(), raw, "head")
        return digest

    async def head(self, key: bytes, publisher: PeerId) -> Version | None:
        """The last version of a publisher's key."""
        for kept in await self.net.get(hashlib.sha256(key).digest(), enough=3):
            if kept.publisher == publisher and kept.subkey == "head":
                version = self._version(kept)
                if version is not None and version.key == key:
                    return version
        return None

    async def history(self, digest: bytes) -> list[Version]:
        """All versions up to the one with that digest, oldest first. Raises UnknownRecord when one is not found."""
        versions: list[Version] = []
        while digest != FIRST:
            found = [version for kept in await self.net.get(digest) if (version := self._version(kept)) is not None]
            version = next((one for one in found if one.digest(self.hasher) == digest), None)
            if version is None:
                raise UnknownRecord(f"{self.name}: version {digest.hex()[:8]} was not found")
            versions.append(version)
            digest = version.prev
        return versions[::-1]

    def prove_version(self, history: list[Version], number: int) -> Proof:
        """Steps from the record of version ``number`` to the digest of the last version of a history."""
        steps = []
        for i, version in enumerate(history[number:]):
            meta = version.meta(self.hasher)
            steps.append(Step("V", b"", version.id + meta) if i else Step("V", version.prev, meta))
        return Proof(self.kind, self.hasher.suite, steps)

    def audit(self) -> list[str]:
        """Records that this peer keeps for others under an id that is not theirs."""
        faults = super().audit()
        for id in list(self.net.records.shelf.keys):
            for kept, _ in self._shelf(id):
                if (made := _decoded(kept.value)) is not None and made.id(self.hasher) != id:
                    faults.append(f"record {id.hex()[:8]}: what is kept under it is another")
        return faults

    def stored(self) -> int:
        """Bytes that this peer keeps for others and of its own."""
        return super().stored() + self.net.records.shelf.total[1]

    async def _put(self, key: bytes, value: bytes, subkey: str = "") -> None:
        if len(value) > self.net.limits.record:
            raise RecordTooLarge(f"{self.name}: {len(value):,} bytes; at most {self.net.limits.record:,}")
        await self.net.records.put(key, value, self.life, subkey, replicas=self.replicas, renew=True)

    def _shelf(self, key: bytes) -> list[tuple[Kept, bytes]]:
        return list(self.net.records.shelf.keys.get(key, {}).values())

    def _record(self, raw: bytes) -> Record | None:
        """A signed record, or nothing."""
        try:
            return self.vet(raw)
        except LedgerError:
            return None

    def _version(self, kept: Kept) -> Version | None:
        try:
            return _version(kept.value)
        except msgspec.MsgspecError:
            self.drop("version")
            return None


def _decoded(raw: bytes) -> Record | None:
    try:
        return record.decode(raw)
    except LedgerError:
        return None


_encode = msgspec.msgpack.Encoder().encode
_version = msgspec.msgpack.Decoder(Version).decode
