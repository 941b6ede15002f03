"""Rules that weigh each model's values by what it knows of them: Fisher merging and RegMean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import ConfigError
from hubless.merging.averages import Mean
from hubless.merging.rule import Beside, Rule, blocks, empty
from hubless.parts import part


@part("rule", "fisher")
@dataclass(frozen=True)
class Fisher(Rule):
    """The mean by the weights and, value by value, by each model's Fisher information (arXiv 2111.09832, equation 4).

    Statistics of a tensor are the diagonal of the Fisher matrix, of its shape and 0 or more; a tensor without any gets
    the mean. The official code can favour the first model and divide each model's statistics by their norm; here all
    models are alike, and the weights can do the second.

    floor: least information of a value, as in the official code; where no model knows more, the answer is the mean
    """

    floor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-6

    statistics: ClassVar[str] = "fisher"

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ConfigError(f"floor = {self.floor:g}: must be above 0")

    def statistic(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the tensor."""
        return shape

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """``sum_i w_i F_i x_i / sum_i w_i F_i``."""
        if beside.statistics is None:
            return Mean().merge(tensors, beside)
        answer, flat = empty(tensors)
        shares = beside.shares.to(answer.dtype)[:, None]
        for (at, values), (_, known) in zip(blocks(tensors), blocks(beside.statistics), strict=True):
            known = known.to(answer.dtype).clamp_min_(self.floor).mul_(shares)
            torch.div(values.mul_(known).sum(0), known.sum(0), out=flat[at])
        return answer


@part("rule", "regmean")
@dataclass(frozen=True)
class RegMean(Rule):
    """Linear layers that answer each model's inputs as it does, in least squares (arXiv 2212.09849, section 3).

    Statistics of a weight ``[out, in]`` of a linear layer are the Gram matrix ``[in, in]`` of its inputs, ``X^T X``,
    multiplied by the model's weight; a tensor without any (a bias, a norm, an embedding) gets the mean. Inputs that no
    model has seen leave their weights at the mean.

    alpha: what is left of the Gram matrices off their diagonal; the source's 0.9 by default
    """

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9

    statistics: ClassVar[str] = "gram"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha:g}: must be in [0, 1]")

    def statistic(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """``[in, in]`` of a weight ``[out, in]``."""
        return (shape[1], shape[1]) if len(shape) == 2 else None

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """``W = M + (sum_i (W_i - M) G_i) (sum_i G_i)^-1`` around the mean M: the source's equation 2."""
        mean = Mean().merge(tensors, beside)
        if beside.statistics is None:
            return mean
        total = mean.new_zeros(mean.shape[1], mean.shape[1], dtype=torch.float64)
        pull = torch.zeros_like(mean, dtype=torch.float64)
        for tensor, gram, share in zip(tensors, beside.statistics, beside.shares, strict=True):
            known = gram.double() * self.alpha
            known.diagonal().copy_(gram.diagonal())
            total += known.mul_(share)
            pull += (tensor.double() - mean) @ known
        return mean + _solved(total, pull).to(mean.dtype)


def _solved(total: Tensor, pull: Tensor) -> Tensor:
    """``pull total^-1`` of a symmetric ``total [n, n]``; with the pseudo-inverse where it is singular."""
    factor, singular = torch.linalg.cholesky_ex(total)
    inverse: Tensor = torch.linalg.pinv(total, hermitian=True) if int(singular) else torch.cholesky_inverse(factor)
    return pull @ inverse
