"""Numbers rounded to evenly spaced levels between the smallest and the largest of their tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs.bits import BitPack
from hubless.learn.codecs.naming import finite, numbers, replaced, restored
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part

Bits = Annotated[int, Field(ge=1, le=16)]


@dataclass(frozen=True)
class Uniform(Stage):
    """The nearest of ``2^bits`` levels: ``NAME/levels``, integers, and ``NAME/range``, the lowest level and the step.

    bits: from 1 to 16; ``BitPack(bits)`` behind it makes them count
    """

    bits: int = 8

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise ConfigError(f"{type(self).__name__}: bits = {self.bits}: must be from 1 to 16")

    def rounded(self, y: Tensor, name: str, ctx: Context) -> Tensor:
        """Whole numbers for ``y`` in units of levels."""
        return y.round()

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Levels. Raises CodecError for numbers that are not finite."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if not numbers(value):
                return None
            x = finite(name, value).double()
            low, high = (x.min(), x.max()) if x.numel() else (x.new_zeros(()), x.new_zeros(()))
            top = (1 << self.bits) - 1
            step = (high - low) / top
            y = (x - low) / step if step > 0 else torch.zeros_like(x)
            levels = self.rounded(y, name, ctx).clamp(0, top).to(torch.int32)
            return {"levels": levels, "range": torch.stack([low, step])}

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """float32 again. Raises CodecError for levels or ranges of a wrong type."""
        return restored(m, ("levels", "range"), _scaled)


def _scaled(name: str, parts: list[Tensor]) -> Tensor:
    levels, span = parts
    if levels.dtype != torch.int32 or span.dtype != torch.float64 or span.shape != (2,):
        raise CodecError(f"{name}: levels or their range of a wrong type")
    return (span[0] + levels * span[1]).float()


@dataclass(frozen=True)
class Stochastic(Uniform):
    """One of the two levels around a number, the nearer the likelier, so that the mean over draws is the number.

    Draws follow from (seed, round, peer, exchange, name), like all randomness here; they protect nobody's data.
    """

    def rounded(self, y: Tensor, name: str, ctx: Context) -> Tensor:
        """Up with the probability of the fraction."""
        return (y + ctx.uniform(f"round {name}", tuple(y.shape))).floor()


@part("codec", "uniform")
def uniform(bits: Bits = 8) -> Codec:
    """Numbers rounded to the nearest of 2^bits levels between the smallest and the largest of a tensor."""
    return Codec((Uniform(bits), BitPack(bits)))


@part("codec", "stochastic")
def stochastic(bits: Bits = 8) -> Codec:
    """Numbers rounded up or down to one of 2^bits levels at random, so that they are right on average."""
    return Codec((Stochastic(bits), BitPack(bits)))
