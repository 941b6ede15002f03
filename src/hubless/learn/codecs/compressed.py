"""Packers that squeeze the bytes of a message without loss: Huffman's codes, deflate, zstd."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import huffman as codes
from hubless.learn.codecs.layout import TYPES, Reader, array, padding, room, tensor
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.codecs.raw import Raw, describe, described
from hubless.learn.context import Message
from hubless.learn.slots import Packer
from hubless.parts import part


@dataclass(frozen=True)
class Sealed(Packer):
    """Bytes behind four that name the packer and a checksum of all that follows."""

    magic: ClassVar[bytes]

    def seal(self, body: bytes) -> bytes:
        """The body with its front."""
        return self.magic + struct.pack("<I", zlib.crc32(body)) + body

    def open(self, data: bytes) -> Reader:
        """The inverse. Raises CodecError for other or damaged bytes."""
        if len(data) < 8 or data[:4] != self.magic:
            raise CodecError(f"{type(self).__name__}: not a message")
        if zlib.crc32(data[8:]) != struct.unpack("<I", data[4:8])[0]:
            raise CodecError(f"{type(self).__name__}: truncated or damaged")
        return Reader(data[8:])


@dataclass(frozen=True)
class Huffman(Sealed):
    """Every tensor's first bytes, second bytes and so on under a code of their own, where that saves a twentieth."""

    magic: ClassVar[bytes] = b"hubh"

    def pack(self, m: Message) -> bytes:
        """Raw's header, then planes of bytes: 1 and the coded plane, or 0 and the plane itself."""
        header = describe(m)
        body = [struct.pack("<I", len(header)), header]
        for value in m.values():
            for plane in _planes(array(value)):
                worth = 20 * codes.size(np.bincount(plane, minlength=256)) <= 19 * len(plane)
                body.append(b"\1" + codes.coded(plane, 256) if worth else b"\0" + plane.tobytes())
        return self.seal(b"".join(body))

    def unpack(self, data: bytes) -> Message:
        """The message. Raises CodecError for anything that ``pack`` did not write."""
        reader = self.open(data)
        m: Message = {}
        for name, code, shape in described(reader.take(*reader.fields("I")).tobytes()):
            dtype, kind = TYPES[code]
            count = math.prod(shape)
            planes = [self._plane(reader, count) for _ in range(kind.itemsize)]
            values = np.stack(planes, axis=1).reshape(-1).view(kind)
            m[name] = tensor(values, dtype, shape)
        reader.end()
        return m

    def _plane(self, reader: Reader, count: int) -> NDArray[np.uint8]:
        if reader.fields("B")[0] == 0:
            return reader.take(count)
        if count > 8 * reader.left:
            raise CodecError(f"Huffman: {count} values do not fit {reader.left} bytes")
        return codes.decoded(reader, count, 256).astype(np.uint8)


def _planes(values: NDArray[np.generic]) -> list[NDArray[np.uint8]]:
    """The first byte of every number, the second, and so on."""
    size = values.dtype.itemsize
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, size)
    return [np.ascontiguousarray(flat[:, place]) for place in range(size)]


@dataclass(frozen=True)
class Squeezed(Sealed):
    """Raw's bytes through a general compressor; their number is told first and checked before they take memory."""

    def squeeze(self, data: bytes) -> bytes:
        """Fewer bytes, with luck."""
        raise NotImplementedError

    def expand(self, data: bytes, size: int) -> bytes:
        """The ``size`` bytes again. Raises CodecError when ``data`` holds another number of them, or nothing."""
        raise NotImplementedError

    def pack(self, m: Message) -> bytes:
        """Size, length of the compressed bytes, these, and zeros where the receiver would not allow so much growth."""
        raw = Raw().pack(m)
        body = self.squeeze(raw)
        front = struct.pack("<QI", len(raw), len(body)) + body
        return self.seal(front.ljust(padding(len(raw)), b"\0"))

    def unpack(self, data: bytes) -> Message:
        """The message. Raises CodecError for anything that ``pack`` did not write."""
        reader = self.open(data)
        size, length = reader.fields("QI")
        body = reader.take(length).tobytes()
        if reader.take(reader.left).any():
            raise CodecError(f"{type(self).__name__}: bytes too many")
        if size > room(len(data)):
            raise CodecError(f"{type(self).__name__}: {size} bytes are more than such a message may have")
        return Raw().unpack(self.expand(body, size))


@dataclass(frozen=True)
class Deflate(Squeezed):
    """zlib's deflate; level from 1 (fast) to 9 (small)."""

    level: int = 6

    magic: ClassVar[bytes] = b"hubd"

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 9:
            raise ConfigError(f"deflate.level = {self.level}: must be from 1 to 9")

    def squeeze(self, data: bytes) -> bytes:
        """zlib's format."""
        return zlib.compress(data, self.level)

    def expand(self, data: bytes, size: int) -> bytes:
        """At most one byte more than ``size`` is ever made."""
        machine = zlib.decompressobj()
        try:
            found = machine.decompress(data, size + 1)
        except zlib.error as error:
            raise CodecError(f"Deflate: {error}") from None
        if len(found) != size or not machine.eof or machine.unused_data:
            raise CodecError("Deflate: another number of bytes than it says")
        return found


@dataclass(frozen=True)
class Zstd(Squeezed):
    """Zstandard; level from 1 (fast) to 22 (small). Needs the package zstandard."""

    level: int = 3

    magic: ClassVar[bytes] = b"hubz"

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22:
            raise ConfigError(f"zstd.level = {self.level}: must be from 1 to 22")
        if find_spec("zstandard") is None:
            raise ConfigError("codec: zstd needs the package zstandard: pip install 'hubless[wire]'; or use deflate")

    def squeeze(self, data: bytes) -> bytes:
        """One frame that tells its size."""
        import zstandard

        return zstandard.ZstdCompressor(self.level).compress(data)

    def expand(self, data: bytes, size: int) -> bytes:
        """The frame's own size must be ``size``, because that is the memory it takes."""
        import zstandard

        try:
            if zstandard.frame_content_size(data) != size:
                raise CodecError("Zstd: another number of bytes than it says")
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"Zstd: {error}") from None


@part("codec", "huffman")
def huffman() -> Codec:
    """Huffman codes over the bytes of a message, those of equal place in a number together."""
    return Codec(packer=Huffman())


@part("codec", "deflate")
def deflate(level: Annotated[int, Field(ge=1, le=9)] = 6) -> Codec:
    """Bytes through zlib's deflate."""
    return Codec(packer=Deflate(level))


@part("codec", "zstd")
def zstd(level: Annotated[int, Field(ge=1, le=22)] = 3) -> Codec:
    """Bytes through Zstandard."""
    return Codec(packer=Zstd(level))
