"""Averages of the models themselves: the mean, and the spherical one of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.merging.rule import Beside, Rule, blocks, empty
from hubless.parts import part

PARALLEL = 0.9995  # cosine from which on the arc counts as straight, mergekit's
TINY = 1e-8  # norm of what has no direction


@part("rule", "mean")
@dataclass(frozen=True)
class Mean(Rule):
    """The mean, by the weights (model soups, arXiv 2203.05482, section 2); ``linear`` in mergekit."""

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """``sum_i w_i x_i / sum_i w_i``."""
        answer, flat = empty(tensors)
        shares = beside.shares.to(answer.dtype)
        for at, values in blocks(tensors):
            torch.mv(values.T, shares, out=flat[at])
        return answer


@part("rule", "slerp")
@dataclass(frozen=True)
class Slerp(Rule):
    """A point on the arc between two models (Shoemake, SIGGRAPH 1985, section 3.3), tensor by tensor as in mergekit.

    The second model's share of the weights is how far along the arc it lies: weights 0.7 and 0.3 are mergekit's
    t = 0.3 with the first model as its base. Models of one norm keep it. Tensors that are nearly parallel or opposite
    are mixed linearly.
    """

    models: ClassVar[int | None] = 2

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """``(sin((1 - t) angle) x_0 + sin(t angle) x_1) / sin(angle)``."""
        answer, flat = empty(tensors)
        t = beside.shares[1]
        gram = torch.zeros(2, 2, dtype=torch.float64, device=answer.device)
        for _, values in blocks(tensors):
            gram += values @ values.T
        norms = gram.diagonal().sqrt()
        norms = torch.where(norms > TINY, norms, 1)
        cosine = gram[0, 1] / norms.prod()
        if abs(cosine) > PARALLEL:
            shares = torch.stack([1 - t, t])
        else:
            angle = torch.acos(cosine)
            shares = torch.sin(torch.stack([1 - t, t]) * angle) / torch.sin(angle)
        for at, values in blocks(tensors):
            torch.mv(values.T, shares.to(answer.dtype), out=flat[at])
        return answer
