"""Codecs: from message to bytes and back."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Packer, Stage
from hubless.parts import part

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


@dataclass(frozen=True)
class Codec:
    """Stages in order, then a packer; each stage sees the messages of the kind it wants."""

    stages: tuple[Stage, ...] = ()
    packer: Packer = field(default_factory=Raw)

    @property
    def plain(self) -> bool:
        """Whether messages pass unchanged, so that only their length matters."""
        return not self.stages and type(self.packer) is Raw

    def check(self, kinds: dict[str, str], merge: str) -> None:
        """Raise ConfigError when a stage wants a kind of message that the merge never sends."""
        for stage in self.stages:
            if stage.wants and stage.wants not in kinds.values():
                raise ConfigError(
                    f"codec: {type(stage).__name__} takes a {stage.wants}, but merge {merge} sends {kinds};"
                    " use merge=ServerOpt() or another codec"
                )

    def encode(self, m: Message, s: State, ctx: Context) -> tuple[bytes, State]:
        """The message as bytes, and the sender's state."""
        for place, stage in enumerate(self.stages):
            if stage.wants in (None, ctx.kind):
                m, s = stage.forward(m, s, _at(place, ctx))
        return self.packer.pack(m), s

    def decode(self, data: bytes, ctx: Context) -> Message:
        """The message as the receiver sees it. Raises CodecError."""
        m = self.packer.unpack(data)
        for place, stage in reversed(list(enumerate(self.stages))):
            if stage.wants in (None, ctx.kind):
                m = stage.inverse(m, 1, _at(place, ctx))
        return m

    def length(self, m: Message) -> int:
        """Bytes of a message that passes unchanged."""
        return self.packer.length(m)


def _at(place: int, ctx: Context) -> Context:
    """Two stages of one kind must not draw the same noise."""
    fresh: dict[str, Any] = {name: keys.fold(getattr(ctx, name), "stage", place) for name in ("key", "secret", "pairs")}
    return replace(ctx, **fresh)


@part("codec", "raw")
def raw() -> Codec:
    """Tensors as they are: 4 bytes a parameter."""
    return Codec()
