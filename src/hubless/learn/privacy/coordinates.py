"""Mechanisms that make every coordinate of an update private on its own, and the clipping that they need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.codecs.bits import BitPack
from hubless.learn.codecs.floats import Half
from hubless.learn.codecs.naming import numbers, replaced, restored
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.privacy.renyi import Array, RenyiAccountant
from hubless.learn.slots import Mechanism, Stage
from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.model import Model


def bounded(c: float) -> None:
    """Raise ConfigError unless the bound on a coordinate is positive and finite."""
    if not 0 < c < math.inf:
        raise ConfigError(f"clip.c = {c:g}: must be positive")


def unit(key: keys.Key, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform draws in (0, 1], float64 of 53 bits, so that also rare outcomes come with their probability."""
    drawn = keys.bits(key, math.prod(shape), device)
    value = ((drawn >> 11) & ((1 << 53) - 1)).to(torch.float64).add(1).mul(2.0**-53)
    return value.reshape(*drawn.shape[:-1], *shape)


@dataclass(frozen=True)
class Clip(Stage):
    """Each coordinate of an update is brought into [-c, c]."""

    c: float

    wants: ClassVar[str | None] = "delta"
    sums: ClassVar[bool] = True

    def __post_init__(self) -> None:
        bounded(self.c)

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Numbers clipped; facts beside them as they are."""
        return {name: value.clamp(-self.c, self.c) if numbers(value) else value for name, value in m.items()}, s


@dataclass(frozen=True)
class Coordinatewise(Stage):
    """Each coordinate x in [-c, c] becomes a random integer whose mean decodes to x; sums decode to the mean.

    ``NAME`` becomes ``NAME/private``. Integers and float64, the facts that a merge says beside its numbers, pass in the
    clear and are not protected.

    m:      number of levels, or of trials
    c:      bound on a coordinate; with ``strict``, larger ones are a ConfigError instead of being clipped
    strict: for callers that clip themselves
    """

    m: int
    c: float
    strict: bool = field(default=False, kw_only=True)

    wants: ClassVar[str | None] = "delta"
    sums: ClassVar[bool] = True

    @property
    def outcomes(self) -> int:
        """How many integers may be sent."""
        raise NotImplementedError

    @property
    def bits(self) -> int:
        """Bits of one coordinate."""
        return (self.outcomes - 1).bit_length()

    def codec(self) -> Codec:
        """Clip, mechanism, exact bits; joined with a secure sum, the integers are summed and not packed."""
        return Codec((Clip(self.c), self, BitPack(self.bits)))

    def pmf(self, x: float) -> Array:
        """Exact probabilities of the outcomes ``[outcomes]`` for one coordinate."""
        raise NotImplementedError

    def inputs(self) -> tuple[float, ...]:
        """Inputs in [-c, c] of which some pair is the worst case, in ascending order."""
        return -self.c, self.c

    def draw(self, x: Tensor, key: keys.Key) -> Tensor:
        """Outcomes for coordinates x in [-c, c], float64, of any shape."""
        raise NotImplementedError

    def decode(self, total: Tensor, count: int = 1) -> Tensor:
        """The mean of the inputs, estimated from the sum of ``count`` outcomes."""
        raise NotImplementedError

    def follows(self, before: tuple[Stage, ...]) -> None:
        """Raise ConfigError behind stages that say in the clear which parameters they kept, or how large those are."""
        for stage in before:
            if not isinstance(stage, (Clip, Half)) and stage.gives != "delta":
                raise ConfigError(
                    f"codec: {self._name} cannot follow {type(stage).__name__}, which tells what is not private; only"
                    " clip, float16, bfloat16 and delta may stand before it"
                )

    def init(self, model: Model) -> State:
        """No state. Raises ConfigError for a model with BatchNorm: its statistics are no updates, and would leak."""
        if any(buffer.is_floating_point() for buffer in model.buffers.values()):
            raise ConfigError(f"model: {model.name} sends BatchNorm's statistics, which {self._name} cannot protect")
        return {}

    @property
    def _name(self) -> str:
        return type(self).__name__

    def encode(self, x: Tensor, key: keys.Key) -> Tensor:
        """Outcomes for floats of any shape (after the key's own dimensions); what is no number counts as 0."""
        if self.strict and bool((x.abs() > torch.tensor(self.c, dtype=x.dtype, device=x.device)).any()):
            raise ConfigError(
                f"codec: a coordinate of {float(x.abs().max()):g} is beyond c = {self.c:g}; put clip first"
            )
        z = self.draw(torch.nan_to_num(x.double(), nan=0.0).clamp(-self.c, self.c), key)
        return z.to(torch.int16 if self.outcomes <= 1 << 15 else torch.int32)

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Small integers, with randomness that others cannot predict."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if not numbers(value):
                return None
            return {"private": self.encode(value, keys.fold(ctx.secret, self._name, name))}

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Floats again, from one message or the sum of ``count``. Raises CodecError for what nobody can have sent."""

        def build(name: str, parts: list[Tensor]) -> Tensor:
            z, most = parts[0], count * (self.outcomes - 1)
            if z.is_floating_point() or z.dtype == torch.bool:
                raise CodecError(f"{self._name}: {name} is {z.dtype}, not integers")
            if z.numel() and not 0 <= int(z.min()) <= int(z.max()) <= most:
                raise CodecError(f"{self._name}: {name} has an index outside 0..{most}")
            return self.decode(z.double(), count).to(torch.float32)

        return restored(m, ("private",), build)

    def variance(self, x: float) -> float:
        """Variance of the decoded value of one coordinate."""
        p, values = self.pmf(x), self.decode(torch.arange(self.outcomes, dtype=torch.float64)).numpy()
        return float((p * np.square(values - p @ values)).sum())

    @property
    def accountant(self) -> RenyiAccountant:
        """The worst case over all inputs in [-c, c]."""
        return _accountant(self)

    def between(self, *inputs: float) -> RenyiAccountant:
        """The worst case over some inputs."""
        return RenyiAccountant(tuple(tuple(self.pmf(x).tolist()) for x in inputs))

    def mechanism(self) -> Mechanism | None:
        """Renyi divergence of ONE coordinate of one message; it adds up over coordinates and rounds."""
        return self.accountant.epsilon


@lru_cache(64)
def _accountant(mechanism: Coordinatewise) -> RenyiAccountant:
    """One for all mechanisms alike: it remembers what it has computed."""
    return mechanism.between(*mechanism.inputs())


@part("codec", "clip")
def clip(c: float) -> Codec:
    """Each coordinate of an update is clipped to [-c, c]."""
    return Codec((Clip(c),))
