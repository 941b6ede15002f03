"""Numbers in half the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part


@dataclass(frozen=True)
class Half(Stage):
    """float32 tensors as 16-bit floats, rounded to nearest; what is too large becomes the largest there is.

    dtype: float16 (11 bits of precision, up to 65504) or bfloat16 (8 bits, the range of float32)
    """

    dtype: torch.dtype = torch.float16

    vectorised: ClassVar[bool] = False

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Half the bytes."""
        largest = torch.finfo(self.dtype).max
        return {
            name: torch.where(value.isfinite(), value.clamp(-largest, largest), value).to(self.dtype)
            if value.dtype == torch.float32
            else value
            for name, value in m.items()
        }, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """float32 again."""
        return {name: value.float() if value.dtype == self.dtype else value for name, value in m.items()}


@part("codec", "float16")
def float16() -> Codec:
    """Numbers as float16: 2 bytes each."""
    return Codec((Half(torch.float16),))


@part("codec", "bfloat16")
def bfloat16() -> Codec:
    """Numbers as bfloat16: 2 bytes each."""
    return Codec((Half(torch.bfloat16),))
