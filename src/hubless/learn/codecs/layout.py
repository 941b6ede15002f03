"""How tensors lie in bytes: type codes, and a reader for bytes that a stranger wrote."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.errors import CodecError

CODES: dict[torch.dtype, tuple[str, str]] = {  # code of a type, and numpy's type with the same bytes
    torch.float32: ("f4", "<f4"),
    torch.float64: ("f8", "<f8"),
    torch.float16: ("f2", "<f2"),
    torch.bfloat16: ("bf", "<i2"),
    torch.int64: ("i8", "<i8"),
    torch.int32: ("i4", "<i4"),
    torch.int16: ("i2", "<i2"),
    torch.int8: ("i1", "<i1"),
    torch.uint8: ("u1", "<u1"),
    torch.bool: ("b1", "<u1"),
}
TYPES = {code: (dtype, np.dtype(kind)) for dtype, (code, kind) in CODES.items()}
ORDER = tuple(TYPES)

ROOM = 1 << 26  # bytes that any message may grow to when it is decoded ...
GROWTH = 1 << 10  # ... or this many for each byte received, whichever is more


def room(received: int) -> int:
    """Most bytes that a message of ``received`` bytes may decode to: a small message cannot ask for much memory."""
    return max(ROOM, GROWTH * received)


def padding(size: int) -> int:
    """Least length of a message that decodes to ``size`` bytes."""
    return 0 if size <= ROOM else math.ceil(size / GROWTH)


def array(value: Tensor) -> NDArray[Any]:
    """The tensor's numbers in little-endian order; bfloat16 as 16-bit integers, bool as bytes."""
    value = value.detach().cpu().contiguous()
    if value.dtype in (torch.bfloat16, torch.bool):
        value = value.view(torch.int16 if value.dtype == torch.bfloat16 else torch.uint8)
    found: NDArray[Any] = value.numpy()
    return found.astype(found.dtype.newbyteorder("<"), copy=False)


def tensor(values: NDArray[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``array``, on memory of its own. Raises CodecError when the shape does not fit."""
    own = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=True))
    return reshaped(own != 0 if dtype == torch.bool else own.view(dtype), shape)


def reshaped(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor in another shape. Raises CodecError when it does not fit."""
    try:
        return value.reshape(shape)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"shape {shape}: {error}") from None


def head(dtype: torch.dtype, shape: tuple[int, ...]) -> bytes:
    """Type and shape of a tensor in 2 + 4 bytes a dimension. Raises CodecError for what has no code."""
    if dtype not in CODES or len(shape) > 255 or any(size >= 1 << 32 for size in shape):
        raise CodecError(f"a tensor of {dtype} and shape {shape} has no code")
    return struct.pack(f"<BB{len(shape)}I", ORDER.index(CODES[dtype][0]), len(shape), *shape)


class Reader:
    """Takes fields off the front of bytes; every read checks what is left first and raises CodecError."""

    def __init__(self, data: bytes | NDArray[np.uint8]) -> None:
        self._data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._at

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bytes."""
        if not 0 <= count <= self.left:
            raise CodecError(f"truncated: {count} bytes wanted, {self.left} left")
        self._at += count
        return self._data[self._at - count : self._at]

    def fields(self, form: str) -> tuple[Any, ...]:
        """Numbers laid out as in ``struct``, little-endian."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)).tobytes())

    def text(self) -> str:
        """A short text with its length before it."""
        try:
            return self.take(self.fields("B")[0]).tobytes().decode()
        except UnicodeDecodeError as error:
            raise CodecError(f"a name is no text: {error}") from None

    def head(self) -> tuple[torch.dtype, tuple[int, ...]]:
        """The inverse of ``head``."""
        code, dimensions = self.fields("BB")
        if code >= len(ORDER):
            raise CodecError(f"unknown type of tensor {code}")
        return TYPES[ORDER[code]][0], self.fields(f"{dimensions}I")

    def end(self) -> None:
        """Raise CodecError unless everything was read."""
        if self.left:
            raise CodecError(f"{self.left} bytes too many")
