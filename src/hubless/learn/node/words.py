"""What nodes say to each other beside rows: who they are, and what of a round an observer hears."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from hubless.errors import MessageError

Word = TypeVar("Word", bound=msgspec.Struct)

MEMBERS = 4096  # that a word may name
ADDRESSES = 8  # of one member


class Member(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A process and the peers that it holds; none: it only watches."""

    key: str
    peers: list[int]
    addresses: list[str]


class Hello(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Said first and answered alike.

    digest:  of recipe, options and version; nodes of one group have the same
    member:  who says it
    round:   that it is in, 0 before the first
    start:   unix time at which round 1 began or will begin, 0 where that is not settled
    members: others that it knows
    """

    digest: str
    member: Member
    round: int = 0
    start: float = 0.0
    members: list[Member] = []


class Packet(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One peer's message in a swap; ``to`` is -1 where all receivers hear the same."""

    sender: int
    to: int
    body: bytes


class Spent(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a step of the plan cost at one node: seconds of training, or messages ``src``, ``dst`` of so many bytes."""

    seconds: float
    src: list[int] = []
    dst: list[int] = []
    each: list[float] = []


class Event(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Something that went wrong inside a round, and where in it."""

    order: list[int]
    text: str
    times: int = 1


class Report(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What an observer hears of a node's round.

    trained:  peers held there that trained; ``losses`` of theirs, and their ``places`` in the order of training
    costs:    of each step; ``rejected`` and ``missing`` count messages that were not used, or did not come
    news:     who came and went
    dropped:  since the beginning, by reason
    holders:  of the aggregator role, where it was handed on
    scalars:  of the books, as JSON; ``tensors`` of rows, state and books as a message of the raw codec, or empty
    cid:      of a blob that holds the tensors, where no frame can
    """

    round: int
    trained: list[int]
    losses: list[float]
    places: list[int]
    costs: list[Spent]
    rejected: int
    missing: int
    events: list[Event]
    news: list[str]
    dropped: dict[str, int]
    holders: list[int] | None = None
    scalars: str = "{}"
    tensors: bytes = b""
    cid: bytes = b""


def write(word: msgspec.Struct | list[Packet]) -> bytes:
    """As bytes."""
    return msgspec.msgpack.encode(word)


def read(data: bytes, kind: type[Word]) -> Word:
    """The inverse. Raises MessageError for anything else."""
    found: Word = _read(data, kind)
    return found


def read_packets(data: bytes) -> list[Packet]:
    """Several packets. Raises MessageError for anything else."""
    found: list[Packet] = _read(data, list[Packet])
    return found


def _read(data: bytes, kind: Any) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"not a word of a node: {error}") from None
