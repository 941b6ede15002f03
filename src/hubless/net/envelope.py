"""What Network puts into a frame: who sends what to whom, and how that becomes bytes and back.

    frame = flag byte (version << 1 | signed) + [signature, 64 bytes] + msgpack array
    array = [kind, id, src, dst, proto, ttl_ms, body]

The signature covers the bytes of the array as they travel, so nothing is encoded again to check it. A frame that a
relay carries is sealed: a flag byte with ``SEALED`` set, and a box (``identity.seal``) with a signed frame inside.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from hubless.errors import MessageError
from hubless.net.identity import KEY, SIGNATURE
from hubless.net.policy import KIB, Limits

VERSION = 1
SEALED = 0x80
SEND, REQ, RES, ERR = range(4)
COUNTER = 20  # low bits of an id; the rest are the milliseconds of Unix time at which it was made
TICKS = float(1000 << COUNTER)  # of an id, a second
UNSIGNED, SIGNED = bytes([VERSION << 1]), bytes([VERSION << 1 | 1])
BOX = bytes([VERSION << 1 | 1 | SEALED])

Key = Annotated[bytes, msgspec.Meta(min_length=KEY, max_length=KEY)]
Name = Annotated[str, msgspec.Meta(max_length=Limits.name)]
# kind, id, src, dst, proto, ttl in ms (0: none), body. A tuple costs less than an object to make and to take apart
Envelope = tuple[
    Annotated[int, msgspec.Meta(ge=SEND, le=ERR)],
    Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)],
    Key,
    Key,
    Name,
    Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)],
    bytes,
]

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode
_plain, _signed, _box = UNSIGNED[0], SIGNED[0], BOX[0]
_array = 1 + SIGNATURE  # where the array of a signed frame begins
LARGE = 64 * KIB  # from here on a view costs less than a copy


def is_sealed(frame: bytes) -> bool:
    """Whether a frame is a box for its receiver."""
    return frame[:1] == BOX


def decode(frame: bytes) -> tuple[Envelope, bytes | None]:
    """What a frame says, and its signature if it has one; whether that holds, and for whom, is not looked at.

    Raises MessageError, whose text is one of "empty", "version", "truncated", "malformed", and nothing else.
    """
    flag = frame[0] if frame else -1
    try:
        if flag == _plain:
            return _decode(frame[1:] if len(frame) < LARGE else memoryview(frame)[1:]), None
        if flag == _signed:
            return _decode(memoryview(frame)[_array:]), bytes(frame[1:_array])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MessageError("truncated" if len(frame) <= _array else "malformed") from None
    raise MessageError("version" if frame else "empty")


def signed_part(frame: bytes) -> bytes:
    """The bytes that the signature of a signed frame covers."""
    return frame[_array:]


def made_at(ident: int) -> float:
    """Unix seconds at which an id was made."""
    return (ident >> COUNTER) / 1000


class Ids:
    """Ids of one sender: each is larger than the one before, even where its clock is set back."""

    def __init__(self) -> None:
        self.last = 0

    def next(self, now: float) -> int:
        """An id for something sent at ``now`` (Unix seconds)."""
        ident = int(now * TICKS)
        self.last = ident = ident if ident > self.last else self.last + 1
        return ident
