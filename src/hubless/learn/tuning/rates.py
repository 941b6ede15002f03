"""Learning rates that differ within a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.gradients import Plain
from hubless.learn.masks import Mask, chosen
from hubless.learn.model import Model
from hubless.learn.slots import Gradient


@dataclass(frozen=True)
class Rates(Gradient):
    """Another gradient, with that of the parameters of a mask times ``factor``: so many times their learning rate."""

    mask: Mask
    factor: float
    gradient: Gradient = field(default_factory=Plain)

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ConfigError(f"gradient.factor = {self.factor:g}: must be positive")

    def init(self, model: Model) -> State:
        """What the inner gradient keeps."""
        return self.gradient.init(model)

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """As the inner gradient does."""
        return self.gradient.begin(w, s, ctx)

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Each parameter at its own rate."""
        g, s = self.gradient(w, s, batch, ctx)
        return g * _factors(ctx.model, self.mask, self.factor).to(g.device), s

    def end(self, w: Tensor, s: State, ctx: Context) -> State:
        """As the inner gradient does."""
        return self.gradient.end(w, s, ctx)


@lru_cache(maxsize=32)
def _factors(model: Model, mask: Mask, factor: float) -> Tensor:
    """One number a parameter ``[D]``."""
    faster = chosen(mask, model.module, "gradient.mask")
    sizes = zip(model.names, model.sizes, strict=True)
    return torch.cat([torch.full((size,), factor if name in faster else 1.0) for name, size in sizes])
