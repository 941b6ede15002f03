"""Mechanisms that make every coordinate of an update private on its own, and the clipping that they need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.codecs.bits import BitPack
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
        """Floating-point tensors clipped, others as they are."""
        return {n: v.clamp(-self.c, self.c) if v.is_floating_point() else v for n, v in m.items()}, s


@dataclass(frozen=True)
class Coordinatewise(Stage):
    """Each coordinate x in [-c, c] becomes a random integer whose mean decodes to x; sums decode to the mean.

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

    def codec(self, *, packed: bool = True) -> Codec:
        """Clip, mechanism and, unless integers are to be summed before they are read, exact bits."""
        return Codec((Clip(self.c), self, *([BitPack(self.bits)] if packed else [])))

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
        if not x.is_floating_point():
            raise ConfigError(
                f"codec: {self._name} takes whole updates of floats, not {x.dtype}; what other stages say beside them"
                " would be told in the clear, so put those behind it or leave them out"
            )
        if self.strict and bool((x.abs() > torch.tensor(self.c, dtype=x.dtype, device=x.device)).any()):
            raise ConfigError(
                f"codec: a coordinate of {float(x.abs().max()):g} is beyond c = {self.c:g}; put clip first"
            )
        z = self.draw(torch.nan_to_num(x.double(), nan=0.0).clamp(-self.c, self.c), key)
        return z.to(torch.int16 if self.outcomes <= 1 << 15 else torch.int32)

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Floats to small integers, with randomness that others cannot predict."""
        return {n: self.encode(v, keys.fold(ctx.secret, self._name, n)) for n, v in m.items()}, s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Floats again, from one message or the sum of ``count``. Raises CodecError for what nobody can have sent."""
        found = {}
        for name, z in m.items():
            if z.is_floating_point() or z.dtype == torch.bool:
                raise CodecError(f"{self._name}: {name} is {z.dtype}, not integers")
            most = count * (self.outcomes - 1)
            if z.numel() and (int(z.min()) < 0 or int(z.max()) > most):
                raise CodecError(f"{self._name}: {name} has an index outside 0..{most}")
            found[name] = self.decode(z.double(), count).to(torch.float32)
        return found

    def variance(self, x: float) -> float:
        """Variance of the decoded value of one coordinate."""
        p, values = self.pmf(x), self.decode(torch.arange(self.outcomes, dtype=torch.float64)).numpy()
        return float((p * np.square(values - p @ values)).sum())

    @cached_property
    def accountant(self) -> RenyiAccountant:
        """The worst case over all inputs in [-c, c]."""
        return self.between(*self.inputs())

    def between(self, *inputs: float) -> RenyiAccountant:
        """The worst case over some inputs."""
        return RenyiAccountant(tuple(tuple(self.pmf(x).tolist()) for x in inputs))

    def mechanism(self) -> Mechanism | None:
        """Renyi divergence of ONE coordinate of one message; it adds up over coordinates and rounds."""
        return self.accountant.epsilon


@part("codec", "clip")
def clip(c: float) -> Codec:
    """Each coordinate of an update is clipped to [-c, c]."""
    return Codec((Clip(c),))
