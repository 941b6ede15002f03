"""The few entries of an update that matter, and where they sit."""

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
from hubless.learn.codecs.bits import packed, packed_size, unpacked
from hubless.learn.codecs.layout import Reader, array, head, reshaped, room
from hubless.learn.codecs.naming import finite, parameters, replaced, restored
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part

Index = NDArray[np.int64]


def placed(index: Index, size: int) -> NDArray[np.uint8]:
    """Rising positions below ``size`` in about ``2 + log2(size / n)`` bits each (Elias-Fano).

    The lower bits lie packed; the rest is a row of bits in which entry i sets bit ``i + (position >> lower)``.
    """
    lower = _lower(len(index), size)
    marks = np.zeros(len(index) + (size >> lower) + 1, np.uint8)
    marks[(index >> lower) + np.arange(len(index))] = 1
    low = packed(index & ((1 << lower) - 1), lower)
    return np.concatenate([low, np.packbits(marks, bitorder="little")])


def found(data: NDArray[np.uint8], count: int, size: int) -> Index:
    """The inverse. Raises CodecError unless the bytes are exactly ``count`` rising positions below ``size``."""
    if not 0 <= count <= size:
        raise CodecError(f"{count} of {size} entries")
    lower = _lower(count, size)
    reader = Reader(data)
    low = unpacked(reader.take(packed_size(count, lower)), lower, count).astype(np.int64)
    marks = count + (size >> lower) + 1
    bits = np.unpackbits(reader.take(-(-marks // 8)), bitorder="little")
    reader.end()
    ones = np.flatnonzero(bits)
    if len(ones) != count:
        raise CodecError(f"{len(ones)} positions, {count} values")
    index = ((ones - np.arange(count)) << lower) | low
    if count and (bool((np.diff(index) <= 0).any()) or index[-1] >= size):
        raise CodecError("positions do not rise")
    return index


def _lower(count: int, size: int) -> int:
    return max(0, (size // count).bit_length() - 1) if count else size.bit_length()


@dataclass(frozen=True)
class Sparse(Stage):
    """Keeps some entries of every tensor of parameters: ``NAME/values [k]`` and ``NAME/index``, the rest is 0."""

    wants: ClassVar[str | None] = "delta"
    vectorised: ClassVar[bool] = False

    def keep(self, x: NDArray[Any]) -> Index:
        """Rising positions of what is kept of ``x [n]``."""
        raise NotImplementedError

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Values and positions. Raises CodecError for numbers that are not finite."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if not parameters(name, value, ctx):
                return None
            flat = finite(name, value).reshape(-1)
            index = self.keep(flat.float().numpy())
            front = np.frombuffer(head(value.dtype, tuple(value.shape)), np.uint8)
            where = np.concatenate([front, placed(index, len(flat))])
            return {"values": flat[torch.from_numpy(index)], "index": torch.from_numpy(where)}

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Dense tensors. Raises CodecError for positions that do not fit, and for more zeros than a model has."""
        received = sum(value.numel() * value.element_size() for value in m.values())
        left = max(room(received), 16 * ctx.model.size)

        def build(name: str, parts: list[Tensor]) -> Tensor:
            nonlocal left
            values, where = parts
            if values.dim() != 1 or not values.is_floating_point() or where.dtype != torch.uint8 or where.dim() != 1:
                raise CodecError(f"{name}: values or positions of a wrong type")
            reader = Reader(array(where))
            _, shape = reader.head()
            size = math.prod(shape)
            left -= size * values.element_size()
            if left < 0:
                raise CodecError(f"{name}: {size} entries are more than such a message may have")
            index = found(reader.take(reader.left), len(values), size)
            dense = values.new_zeros(size)
            dense[torch.from_numpy(index)] = values
            return reshaped(dense, shape)

        return restored(m, ("values", "index"), build)


@dataclass(frozen=True)
class TopK(Sparse):
    """The largest in magnitude: ``ceil(share n)`` of a tensor; of equal ones the first."""

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"top-k.share = {self.share}: must be in (0, 1]")

    def keep(self, x: NDArray[Any]) -> Index:
        """Rising positions."""
        if not (count := kept(self.share, len(x))):
            return np.zeros(0, np.int64)
        size = np.abs(x)
        bound = np.sort(size)[len(x) - count]  # np.partition is ten times as slow where many are equal
        keep = size > bound
        keep[np.flatnonzero(size == bound)[: count - int(keep.sum())]] = True
        return np.flatnonzero(keep)


def kept(share: float, size: int) -> int:
    """``ceil(share size)``, without a last entry that is there by rounding only."""
    return min(size, math.ceil(share * size - 1e-9))


@dataclass(frozen=True)
class Threshold(Sparse):
    """Entries of at least ``value`` in magnitude."""

    value: float = 1e-3

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise ConfigError(f"threshold.value = {self.value}: must not be negative")

    def keep(self, x: NDArray[Any]) -> Index:
        """Rising positions."""
        return np.flatnonzero(np.abs(x) >= self.value)


@part("codec", "top-k")
def top_k(share: Annotated[float, Field(gt=0, le=1)] = 0.05) -> Codec:
    """A share of an update's entries, the largest in magnitude, and their positions; the rest is 0."""
    return Codec((TopK(share),))


@part("codec", "threshold")
def threshold(value: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3) -> Codec:
    """An update's entries of at least that magnitude, and their positions; the rest is 0."""
    return Codec((Threshold(value),))
