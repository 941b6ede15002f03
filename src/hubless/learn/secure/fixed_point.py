"""Floats as integers that may be added: the numbers of secure sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.codecs import Codec
from hubless.learn.codecs.naming import of_row, replaced, restored
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part

FACTS = 56  # bits of tensors beside the parameters, BatchNorm's statistics above all: few, of any size
WIDE = 2.0**20  # and their range


@dataclass(frozen=True)
class FixedPoint(Stage):
    """Parameters are clipped to [-range, range] and rounded at random, without bias, to 2 L + 1 equal steps.

    What is sent lies in [0, 2 L], with L as large as the senders of an inbox allow: their sum stays below 2^bits.
    Decoding errs by less than range / L. Other floats get ``FACTS`` bits and the range ``WIDE``; integers pass.

    bits:  of the sum, 2 to 56
    range: largest magnitude of a parameter
    """

    bits: int = 32
    range: float = 8.0

    sums: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= FACTS:
            raise ConfigError(f"fixed-point.bits = {self.bits}: must be from 2 to {FACTS}")
        if not 0 < self.range < float("inf"):
            raise ConfigError(f"fixed-point.range = {self.range:g}: must be positive")

    def steps(self, senders: int, bits: int | None = None) -> int:
        """L for so many senders."""
        return ((1 << (self.bits if bits is None else bits)) - 1) // (2 * max(1, senders))

    def _scale(self, name: str, ctx: Context) -> tuple[int, float]:
        of = (self.bits, self.range) if of_row(name, ctx) else (FACTS, WIDE)
        return self.steps(len(ctx.group), of[0]), of[1]

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """``NAME`` becomes ``NAME/fixed``, int64; what is no number counts as 0."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if not value.is_floating_point():
                return None
            most, reach = self._scale(name, ctx)
            scaled = torch.nan_to_num(value.double(), nan=0.0).clamp(-reach, reach) * (most / reach)
            drawn = keys.uniform(keys.fold(ctx.secret, "fixed", name), (value.numel(),), value.device)
            return {"fixed": (scaled + drawn.reshape(value.shape)).floor().to(torch.int64).clamp_max(most) + most}

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """The mean of the floats. Raises CodecError for sums that nobody can have sent."""

        def build(name: str, parts: list[Tensor]) -> Tensor:
            (total,) = parts
            most, reach = self._scale(name, ctx)
            if total.dtype != torch.int64:
                raise CodecError(f"{name}: fixed-point numbers are int64, not {total.dtype}")
            if total.numel() and not 0 <= int(total.min()) <= int(total.max()) <= 2 * most * count:
                raise CodecError(f"{name}: a fixed-point number is beyond what {count} senders can say")
            return ((total - most * count).double() * (reach / (most * count))).to(torch.float32)

        return restored(m, ("fixed",), build)


@part("codec", "fixed-point")
def fixed_point(bits: Annotated[int, Field(ge=2, le=FACTS)] = 32, range: Annotated[float, Field(gt=0)] = 8.0) -> Codec:
    """Floats clipped to a range and rounded to integers that may be summed; packed into as many bits by ``bits``."""
    return Codec((FixedPoint(bits, range),))
