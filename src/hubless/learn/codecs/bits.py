"""Whole numbers of few bits, packed without gaps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs.layout import CODES, TYPES, Reader, array, head, tensor
from hubless.learn.codecs.naming import of_row, replaced, restored
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part

WIDEST = 62
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)


def packed(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """``ceil(n width / 8)`` bytes for ``values [n]`` in [0, 2^width): whole bytes as planes, then the upper bits."""
    values = values.astype(np.uint64, copy=False)
    planes = [(values >> np.uint64(8 * place)).astype(np.uint8) for place in range(width // 8)]
    if rest := width % 8:
        upper = np.zeros(-(-len(values) // 8) * 8, np.uint64)
        upper[: len(values)] = values >> np.uint64(width - rest)
        words = np.bitwise_or.reduce(upper.reshape(-1, 8) << (np.arange(8, dtype=np.uint64) * np.uint64(rest)), axis=1)
        eighths = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :rest].reshape(-1)
        planes.append(eighths[: -(-len(values) * rest // 8)])
    return np.concatenate(planes) if planes else np.zeros(0, np.uint8)


def unpacked(data: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint64]:
    """The inverse of ``packed``. Raises CodecError unless ``data`` is exactly as long as ``count`` values need."""
    if len(data) != packed_size(count, width):
        raise CodecError(f"{count} values of {width} bits need {packed_size(count, width)} bytes, not {len(data)}")
    values = np.zeros(count, np.uint64)
    for place in range(width // 8):
        values |= data[place * count : (place + 1) * count].astype(np.uint64) << np.uint64(8 * place)
    if rest := width % 8:
        eighths = np.zeros(-(-count // 8) * rest, np.uint8)
        upper = data[width // 8 * count :]
        eighths[: len(upper)] = upper
        words = np.zeros((len(eighths) // rest, 8), np.uint8)
        words[:, :rest] = eighths.reshape(-1, rest)
        shifts = np.arange(8, dtype=np.uint64) * np.uint64(rest)
        split = (words.view("<u8") >> shifts) & np.uint64((1 << rest) - 1)
        values |= split.reshape(-1)[:count] << np.uint64(width - rest)
    return values


def packed_size(count: int, width: int) -> int:
    """Bytes of ``count`` packed values."""
    return count * (width // 8) + -(-count * (width % 8) // 8)


@dataclass(frozen=True)
class BitPack(Stage):
    """Integer tensors with values in [0, 2^width) as ``width`` bits a value; type and shape come back exactly.

    uint8 and bool are left alone: bytes that another stage made, and flags. Facts beside the parameters that hold
    larger values are left alone, too; parameters that do are an error.
    """

    width: int = 8

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise ConfigError(f"bits.width = {self.width}: must be from 1 to {WIDEST}")

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """``NAME`` becomes ``NAME/bits``, uint8. Raises CodecError for parameters outside [0, 2^width)."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if value.dtype not in INTEGERS:
                return None
            if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < 1 << self.width:
                if not of_row(name, ctx):
                    return None
                raise CodecError(
                    f"{name} holds {int(value.min())} to {int(value.max())}; {self.width} bits hold 0 to "
                    f"{(1 << self.width) - 1}"
                )
            front = np.frombuffer(bytes([self.width]) + head(value.dtype, tuple(value.shape)), np.uint8)
            return {"bits": torch.from_numpy(np.concatenate([front, packed(array(value).reshape(-1), self.width)]))}

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """The integers again. Raises CodecError for bytes that do not fit their shape."""
        return restored(m, ("bits",), self._unpack)

    def _unpack(self, name: str, parts: list[Tensor]) -> Tensor | None:
        if parts[0].dtype != torch.uint8 or parts[0].dim() != 1:
            raise CodecError(f"{name}: packed bits are a row of bytes")
        reader = Reader(array(parts[0]))
        if reader.fields("B")[0] != self.width:
            return None  # those of another stage
        dtype, shape = reader.head()
        if dtype not in INTEGERS:
            raise CodecError(f"{name}: {dtype} does not come in bits")
        values = unpacked(reader.take(reader.left), self.width, math.prod(shape))
        return tensor(values.astype(TYPES[CODES[dtype][0]][1]), dtype, shape)


@part("codec", "bits")
def bits(width: Annotated[int, Field(ge=1, le=WIDEST)] = 8) -> Codec:
    """Integers in [0, 2^width) in exactly that many bits each."""
    return Codec((BitPack(width),))
