"""Tensors as they are: the packer that every pipeline may end with."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from hubless.errors import CodecError
from hubless.learn.codecs.layout import CODES, TYPES, array, tensor
from hubless.learn.context import Message
from hubless.learn.slots import Packer

MAGIC = b"hub1"


@dataclass(frozen=True)
class Raw(Packer):
    """Tensors as they are, little-endian, behind a header with names, shapes and a checksum."""

    def pack(self, m: Message) -> bytes:
        """Header, then the tensors in order. Raises CodecError for a type that has no code."""
        header = describe(m)
        body = b"".join(array(value).tobytes() for value in m.values())
        return MAGIC + struct.pack("<II", len(header), zlib.crc32(header + body)) + header + body

    def length(self, m: Message) -> int:
        """Bytes of the packed message, without packing it."""
        return len(MAGIC) + 8 + len(describe(m)) + sum(v.numel() * v.element_size() for v in m.values())

    def unpack(self, data: bytes) -> Message:
        """The message. Raises CodecError for anything that ``pack`` did not write."""
        if len(data) < 12 or data[:4] != MAGIC:
            raise CodecError("raw: not a message")
        size, checksum = struct.unpack("<II", data[4:12])
        if len(data) < 12 + size or zlib.crc32(data[12:]) != checksum:
            raise CodecError("raw: truncated or damaged")
        m: Message = {}
        at = 12 + size
        for name, code, shape in described(data[12:at]):
            dtype, kind = TYPES[code]
            count = math.prod(shape)
            if at + count * kind.itemsize > len(data):
                raise CodecError(f"raw: {name} does not fit")
            m[name] = tensor(np.frombuffer(data, kind, count, at), dtype, shape)
            at += count * kind.itemsize
        if at != len(data):
            raise CodecError(f"raw: {len(data) - at} bytes too many")
        return m


def describe(m: Message) -> bytes:
    """Names, types and shapes of a message. Raises CodecError for a type that has no code."""
    for name, value in m.items():
        if value.dtype not in CODES:
            raise CodecError(f"raw: {name} is {value.dtype}; it takes {', '.join(map(str, CODES))}")
    fields = [[name, CODES[value.dtype][0], list(value.shape)] for name, value in m.items()]
    return json.dumps(fields, separators=(",", ":")).encode()


def described(header: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    """The inverse: name, code of the type, shape. Raises CodecError for anything that ``describe`` did not write."""
    try:
        fields = json.loads(header)
        found = [(name, code, tuple(shape)) for name, code, shape in fields]
    except (ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"raw: {error}") from None
    for name, code, shape in found:
        if not isinstance(name, str) or not isinstance(code, str) or code not in TYPES:
            raise CodecError(f"raw: {str(name)[:40]!r} has no type that is known")
        if len(shape) > 64 or any(type(size) is not int or not 0 <= size < 1 << 62 for size in shape):
            raise CodecError(f"raw: {name} has no shape")
    if len({name for name, _, _ in found}) != len(found):
        raise CodecError("raw: a name comes twice")
    return found
