"""Signed records, and what one peer keeps of them for others, with quotas.

A record's slot is (key, publisher, subkey) and the highest ``seq`` of a slot wins: strangers cannot overwrite each
other, and an old record cannot come back.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import msgspec

from hubless.errors import RecordRefused
from hubless.net.identity import RECORD, SIGNATURE, Identity, verify
from hubless.net.policy import Limits
from hubless.net.services import UNREADABLE
from hubless.net.transports.transport import PeerId

OVERHEAD = 128  # bytes that a record is taken to need beside its own
Slot = tuple[PeerId, str]


@dataclass(frozen=True)
class Record:
    """What ``publisher`` says under ``subkey`` of a key until ``expires`` (Unix seconds); a higher ``seq`` replaces."""

    publisher: PeerId
    subkey: str
    value: bytes
    seq: int
    expires: float


class Written(msgspec.Struct, array_like=True):
    """What a publisher signs."""

    key: bytes
    publisher: bytes
    subkey: str
    value: bytes
    seq: int
    expires: float


_written = msgspec.msgpack.Decoder(Written)


def sign(identity: Identity, key: bytes, record: Record) -> bytes:
    """A record as it is sent and kept: signature [64] and the signed bytes."""
    said = Written(key, identity.public, record.subkey, record.value, record.seq, record.expires)
    data = msgspec.msgpack.encode(said)
    return identity.sign(RECORD, data) + data


def read(raw: bytes, limits: Limits) -> tuple[bytes, Record]:
    """Key and record of signed bytes. Raises RecordRefused: damaged, too long, or not signed by its publisher."""
    signature, data = raw[:SIGNATURE], raw[SIGNATURE:]
    try:
        said = _written.decode(data)
    except UNREADABLE as error:
        raise RecordRefused(f"damaged: {error}") from None
    record = Record(said.publisher.hex(), said.subkey, said.value, said.seq, said.expires)
    check(said.key, record, limits)
    if not verify(record.publisher, RECORD, data, signature):
        raise RecordRefused("not signed by its publisher")
    return said.key, record


def check(key: bytes, record: Record, limits: Limits) -> None:
    """Raises RecordRefused for a key, subkey or value that is too long."""
    for name, size, most in (
        ("key", len(key), limits.name),
        ("subkey", len(record.subkey.encode()), limits.name),
        ("value", len(record.value), limits.record),
    ):
        if size > most:
            raise RecordRefused(f"a {name} of {size} bytes: at most {most}")


class Shelf:
    """The records that one peer keeps, by key and slot; never more than ``limits`` allow.

    One publisher may take ``1 / limits.share`` of the room, and ``limits.slots`` is the most under one key.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.keys: dict[bytes, dict[Slot, tuple[Record, bytes]]] = {}
        self.count: dict[PeerId, int] = defaultdict(int)
        self.bytes: dict[PeerId, int] = defaultdict(int)
        self.total = [0, 0]  # records, bytes

    def __len__(self) -> int:
        return self.total[0]

    def keep(self, raw: bytes, now: float) -> Record:
        """Keep signed bytes; what is there already is taken once more. Raises RecordRefused with the reason."""
        key, record = read(raw, self.limits)
        if not now < record.expires <= now + self.limits.lifetime:
            ahead = f"expires in {record.expires - now:.0f} s"
            raise RecordRefused(f"{ahead}: must be after 0 and within {self.limits.lifetime:.0f}")
        slot = record.publisher, record.subkey
        slots = self.keys.get(key, {})
        old = slots.get(slot)
        if old and (old[0].seq, old[1]) > (record.seq, raw):  # of two with one seq all peers keep the same
            raise RecordRefused(f"older: seq {record.seq}, kept is {old[0].seq}")
        if not old and len(slots) >= self.limits.slots:
            raise RecordRefused(f"{len(slots)} records under one key: no more")
        more = len(raw) - len(old[1]) if old else OVERHEAD + len(raw)
        self._room(record.publisher, 0 if old else 1, more)
        self.keys.setdefault(key, {})[slot] = (record, raw)
        self._count(record.publisher, 0 if old else 1, more)
        return record

    def kept(self, key: bytes, now: float) -> list[bytes]:
        """What is kept under a key: all, or the shortest that fit one answer."""
        room, answer = self.limits.answer, []
        for raw in sorted((raw for record, raw in self.keys.get(key, {}).values() if record.expires > now), key=len):
            room -= len(raw)
            if room < 0:
                break
            answer.append(raw)
        return answer

    def sweep(self, now: float) -> int:
        """Drop what has expired; how many records that were."""
        gone = [
            (key, slot, raw)
            for key, slots in self.keys.items()
            for slot, (record, raw) in slots.items()
            if record.expires <= now
        ]
        for key, slot, raw in gone:
            del self.keys[key][slot]
            if not self.keys[key]:
                del self.keys[key]
            self._count(slot[0], -1, -len(raw) - OVERHEAD)
        return len(gone)

    def _room(self, publisher: PeerId, records: int, size: int) -> None:
        stored, shelf, share = self.limits.stored, self.limits.shelf, self.limits.share
        count, used = self.count.get(publisher, 0), self.bytes.get(publisher, 0)
        if count + records > stored / share or used + size > shelf / share:
            raise RecordRefused(f"publisher {publisher[:8]} has as much here as one may have")
        if self.total[0] + records > stored or self.total[1] + size > shelf:
            raise RecordRefused("full")

    def _count(self, publisher: PeerId, records: int, size: int) -> None:
        self.count[publisher] += records
        self.bytes[publisher] += size
        if not self.count[publisher]:
            del self.count[publisher], self.bytes[publisher]
        self.total[0] += records
        self.total[1] += size
