"""Output layers: which class a parameter speaks for, and training that leaves the classes one has never seen alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.model import Model
from hubless.learn.slots import Gradient


@lru_cache(maxsize=32)
def columns(model: Model, classes: int) -> Tensor:
    """The class of each parameter ``[D]``: its row in the last layer's weight or bias; -1 in other layers.

    Raises ConfigError for a network whose last layer is frozen or does not have one row a class.
    """
    layer = [name for name, _ in model.module.named_parameters()][-1].rpartition(".")[0]
    found = []
    for name, shape, size in zip(model.names, model.shapes, model.sizes, strict=True):
        if name.rpartition(".")[0] != layer:
            found.append(torch.full((size,), -1))
        elif shape[0] != classes:
            raise ConfigError(f"model: the last layer of {model.name} has {shape[0]} rows, the data {classes} classes")
        else:
            found.append(torch.arange(classes).repeat_interleave(size // classes))
    column = torch.cat(found)
    if not bool((column >= 0).any()):
        raise ConfigError(f"model: the last layer of {model.name} is frozen, so that no parameter speaks for a class")
    return column


@dataclass(frozen=True)
class Familiar(Gradient):
    """The plain gradient, but 0 for what the output layer holds of classes that the peer has no samples of.

    Cross-entropy would drive them down, and with them all that the peer has heard of these classes.
    """

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Parameters of other layers than the last move as ever."""
        g, s = ctx.grad(w, s, batch)
        seen = functional.pad(ctx.classes > 0, (0, 1), value=True)
        return g * seen[columns(ctx.model, ctx.classes.shape[-1]).to(g.device)], s
