"""Tensors as they are: the packer that every pipeline may end with."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch

from hubless.errors import CodecError
from hubless.learn.context import Message
from hubless.learn.slots import Packer

MAGIC = b"hub1"
TYPES = {torch.float32: "f4", torch.float64: "f8", torch.int64: "i8", torch.int32: "i4", torch.uint8: "u1"}


@dataclass(frozen=True)
class Raw(Packer):
    """Tensors as they are, little-endian, behind a header with names, shapes and a checksum."""

    def pack(self, m: Message) -> bytes:
        """Header, then the tensors in order. Raises CodecError for a type that has no code."""
        header = self._header(m)
        try:
            body = b"".join(v.detach().cpu().contiguous().numpy().tobytes() for v in m.values())
        except (TypeError, RuntimeError) as error:
            raise CodecError(f"raw: {error}") from None
        return MAGIC + struct.pack("<II", len(header), zlib.crc32(header + body)) + header + body

    def _header(self, m: Message) -> bytes:
        for name, value in m.items():
            if value.dtype not in TYPES:
                raise CodecError(f"raw: {name} is {value.dtype}; it takes {', '.join(map(str, TYPES))}")
        fields = [[name, TYPES[value.dtype], list(value.shape)] for name, value in m.items()]
        return json.dumps(fields, separators=(",", ":")).encode()

    def length(self, m: Message) -> int:
        """Bytes of the packed message, without packing it."""
        return len(MAGIC) + 8 + len(self._header(m)) + sum(v.numel() * v.element_size() for v in m.values())

    def unpack(self, data: bytes) -> Message:
        """The message. Raises CodecError for anything that ``pack`` did not write."""
        if len(data) < 12 or data[:4] != MAGIC:
            raise CodecError("raw: not a message")
        size, checksum = struct.unpack("<II", data[4:12])
        if len(data) < 12 + size or zlib.crc32(data[12:]) != checksum:
            raise CodecError("raw: truncated or damaged")
        try:
            fields = json.loads(data[12 : 12 + size])
            m: Message = {}
            at = 12 + size
            for name, code, shape in fields:
                kind = np.dtype("<" + code)
                count = int(np.prod(shape, dtype=np.int64))
                if code not in TYPES.values() or count < 0 or at + count * kind.itemsize > len(data):
                    raise CodecError(f"raw: {name} does not fit")
                values = np.frombuffer(data, kind, count, at).reshape(shape).copy()
                m[str(name)] = torch.from_numpy(values)
                at += count * kind.itemsize
        except (ValueError, TypeError) as error:
            raise CodecError(f"raw: {error}") from None
        if at != len(data):
            raise CodecError(f"raw: {len(data) - at} bytes too many")
        return m
