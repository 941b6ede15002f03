"""What two replicas say in an exchange, on the wire.

hello: a hash of the standing         -> same, or standing: lengths and last hashes of chains, and cuts
trade: operations, evidence, wants    -> traded: operations, evidence, chains that do not fit
where: an actor and some seqs         -> there: the hashes of its operations
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from hubless.net.crdt.chain import Pair, Signed
from hubless.net.crdt.deltas import Count, Key

SPREAD = 64  # hashes that one question asks for
Heads: TypeAlias = dict[Key, tuple[Count, Key]]


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="hello"):
    """How I stand, as a hash."""

    digest: Key


class Same(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="same"):
    """So do I."""


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="standing"):
    """Length and last hash of each chain; who is cut where."""

    heads: Heads
    cuts: dict[Key, Count]


class Trade(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="trade"):
    """What you lack; from where on I want whose chain, with the hash before; whose evidence; how many bytes at most."""

    ops: list[Signed] = []
    evidence: list[Pair] = []
    want: Heads = {}
    doubt: list[Key] = []
    room: Count = 0


class Traded(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="traded"):
    """What you want, as much as a page holds; chains that do not fit mine."""

    ops: list[Signed]
    evidence: list[Pair]
    forked: list[Key]


class Where(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="where"):
    """Which operations of an actor have you at these seqs?"""

    actor: Key
    seqs: Annotated[list[Count], msgspec.Meta(max_length=SPREAD)]


class There(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="there"):
    """Their hashes, 32 zero bytes where there is none."""

    hashes: Annotated[list[Key], msgspec.Meta(max_length=SPREAD)]


class Refused(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="refused"):
    """Not with you, or not like this."""

    reason: str


read_question = msgspec.msgpack.Decoder(Hello | Trade | Where).decode
read_answer = msgspec.msgpack.Decoder(Same | Standing | Traded | There | Refused).decode
