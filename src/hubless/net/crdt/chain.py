"""Signed operations, each naming the hash of its actor's last one, and what proves that an actor told two stories.

    operation = msgpack [doc, actor, seq, lamport, delta, prev], and a signature of these bytes

``seq`` counts from 0; ``prev`` of the first is 32 zero bytes; ``lamport`` never decreases along a chain.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Annotated, TypeAlias

import msgspec

from hubless.errors import CodecError, ConfigError, RecordRefused
from hubless.net.crdt.deltas import Delta, Key
from hubless.net.crdt.types import State
from hubless.net.crdt.values import wire
from hubless.net.identity import OP, SIGNATURE, Identity, verify
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

FIRST = bytes(32)
LATEST = 1 << 53  # of a Lamport clock; who stands there wins by its id, but nobody is ever unable to write

Signed: TypeAlias = tuple[
    Annotated[bytes, msgspec.Meta(max_length=LIMITS.op)],
    Annotated[bytes, msgspec.Meta(min_length=SIGNATURE, max_length=SIGNATURE)],
]
Pair: TypeAlias = tuple[Signed, Signed]


class _Said(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    doc: str
    actor: Key
    seq: Annotated[int, msgspec.Meta(ge=0, lt=LIMITS.ops)]
    lamport: Annotated[int, msgspec.Meta(ge=0, le=LATEST)]
    delta: Delta
    prev: Key


_read = msgspec.msgpack.Decoder(_Said).decode


class Op:
    """An operation: its bytes as they were signed, and what they say."""

    __slots__ = (
        "__weakref__",
        "_held",
        "actor",
        "body",
        "delta",
        "doc",
        "hash",
        "kind",
        "lamport",
        "name",
        "prev",
        "seq",
        "signature",
    )

    def __init__(self, body: bytes, signature: bytes) -> None:
        """Read an operation; whether the signature holds is not looked at. Raises CodecError."""
        try:
            said = _read(body)
            self.actor: PeerId = said.actor.hex()
            self.delta: State = said.delta.state((self.actor, said.seq), said.lamport)
        except (msgspec.MsgspecError, ConfigError, UnicodeError, RecursionError) as error:
            raise CodecError(f"an operation that does not decode: {error}") from None
        self.body, self.signature = body, signature
        self.hash = hashlib.sha256(body).digest()
        self.doc, self.seq, self.lamport, self.prev = said.doc, said.seq, said.lamport, said.prev
        self.kind, self.name = said.delta.kind, said.delta.name
        self._held = False

    @classmethod
    def read(cls, body: bytes, signature: bytes) -> Op:
        """As the constructor; replicas in one process have an operation, and the check of its signature, together."""
        op = _shared.get((body, signature))
        if op is None:
            op = _shared[body, signature] = cls(body, signature)
        return op

    @classmethod
    def signed(cls, identity: Identity, doc: str, seq: int, lamport: int, delta: Delta, prev: bytes) -> Op:
        """A new operation. Raises RecordRefused for one that is too long, ConfigError for a value of another kind."""
        try:
            body = wire([doc, identity.public, seq, lamport, delta, prev])
        except (TypeError, OverflowError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"value: {error}") from None
        if len(body) > LIMITS.op:
            raise RecordRefused(f"an operation of {len(body)} bytes: at most {LIMITS.op}")
        try:
            return cls.read(body, identity.sign(OP, body)).believe()
        except CodecError as error:
            raise ConfigError(f"{doc}: {error}") from None

    def holds(self) -> bool:
        """Whether its actor signed it; what held once is not checked again."""
        if not self._held:
            self._held = verify(self.actor, OP, self.body, self.signature)
        return self._held

    def believe(self) -> Op:
        """Take the signature as checked: it was when these bytes were kept."""
        self._held = True
        return self

    def pair(self) -> Signed:
        """What travels."""
        return self.body, self.signature


_shared: weakref.WeakValueDictionary[Signed, Op] = weakref.WeakValueDictionary()


def proof(one: Op, other: Op) -> int | None:
    """The seq from which on an actor is not believed, because it signed both of these; None if they prove nothing.

    Either both have one seq, or the second does not name the first as the one before it.
    """
    if one.doc != other.doc or one.actor != other.actor or one.hash == other.hash:
        return None
    if one.seq == other.seq or (other.seq == one.seq + 1 and other.prev != one.hash):
        return other.seq
    return None
