"""Rules that add task vectors, the differences of models from their common base, to the base.

They differ in which values of a task vector they keep, and in whether models must agree on a sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hubless.errors import ConfigError
from hubless.merging.rule import Beside, Draw, Rule, blocks, empty
from hubless.parts import part

Density = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[float, Field(allow_inf_nan=False)]
Rescale = Literal["density", "l1"]
Kept = tuple[Tensor | None, float]  # which values are kept [n], None for all; by what they are multiplied


class TaskVectors(Rule):
    """``base + scale * sum_i w_i kept(x_i - base)``.

    scale: of the joint task vector, often called lambda
    """

    scale: float

    needs_base: ClassVar[bool] = True
    negative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        density = getattr(self, "density", 1.0)
        if not 0 < density <= 1:
            raise ConfigError(f"density = {density:g}: must be above 0 and at most 1")

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """The base with the joint task vector added."""
        assert beside.base is not None
        answer, flat = empty(tensors)
        kept = [self.kept(tensor, beside.base, beside.draw, place) for place, tensor in enumerate(tensors)]
        factors = torch.tensor([factor for _, factor in kept], dtype=torch.float64, device=answer.device)
        weights = beside.weights.to(answer.dtype)[:, None]
        factors = (beside.weights * factors).to(answer.dtype)[:, None]
        origin = beside.base.reshape(-1)
        for at, vectors in blocks(tensors, beside.base):
            for row, (mask, _) in zip(vectors, kept, strict=True):
                if mask is not None:
                    row.mul_(mask[at])
            joint = self.joint(vectors.mul_(factors), weights)
            torch.add(origin[at], joint, alpha=self.scale, out=flat[at])
        return answer

    def kept(self, tensor: Tensor, base: Tensor, draw: Draw | None, place: int) -> Kept:
        """What is kept of the task vector of the model in that place."""
        return None, 1.0

    def joint(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """One task vector ``[c]`` of those in ``vectors [M, c]``, which have been multiplied by ``weights [M, 1]``."""
        return vectors.sum(0)


@part("rule", "task-arithmetic")
@dataclass(frozen=True)
class TaskArithmetic(TaskVectors):
    """The sum of the task vectors (arXiv 2212.04089, section 2); a negative weight unlearns."""

    scale: Scale = 1.0


class Elected(TaskVectors):
    """Only values of the sign that has the greater sum count (TIES, arXiv 2306.01708, section 3).

    normalize: divide by the weights of the models that count (the source's disjoint mean), or leave their sum
    """

    normalize: bool

    negative: ClassVar[bool] = False

    def joint(self, vectors: Tensor, weights: Tensor) -> Tensor:
        """The mean or sum of the values that have the elected sign; of a sum of 0 that is plus, as in mergekit."""
        plus = vectors.sum(0) >= 0
        agree = ((vectors > 0) == plus).logical_and_(vectors != 0).to(vectors.dtype)
        total = (vectors * agree).sum(0)
        if not self.normalize:
            return total
        share = (weights * agree).sum(0)
        return total.div_(share.masked_fill_(share == 0, 1))


@part("rule", "ties")
@dataclass(frozen=True)
class Ties(Elected):
    """Trim, elect a sign, merge what agrees with it (TIES, arXiv 2306.01708, section 3).

    The source trims a whole task vector at once; here each tensor is trimmed by itself, as in mergekit.

    density: share of the values that is kept, the largest ones; the source's 0.2 by default
    """

    density: Density = 0.2
    scale: Scale = 1.0
    normalize: bool = True

    def kept(self, tensor: Tensor, base: Tensor, draw: Draw | None, place: int) -> Kept:
        """The largest values; at least one."""
        return largest(tensor, base, self.density), 1.0


@part("rule", "dare")
@dataclass(frozen=True)
class Dare(TaskVectors):
    """Task arithmetic of task vectors of which most values are dropped at random (DARE, arXiv 2311.03099, section 3.1).

    density: chance of a value to be kept: 1 - p of the source
    rescale: multiply what is kept by 1 / density (the source's, right in the mean), or so that the sum of absolute
        values stays (``l1``, mergekit's)
    """

    density: Density = 0.5
    scale: Scale = 1.0
    rescale: Rescale = "density"

    def kept(self, tensor: Tensor, base: Tensor, draw: Draw | None, place: int) -> Kept:
        """Values that the draw leaves."""
        return thinned(tensor, base, self.density, self.rescale, draw, place)


@part("rule", "dare-ties")
@dataclass(frozen=True)
class DareTies(Elected):
    """DARE in place of TIES' trimming, then TIES' election (arXiv 2311.03099, section 4.3).

    mergekit's ``dare_ties`` is ``dare-ties:rescale=l1:normalize=no``.

    density: chance of a value to be kept
    rescale: as in ``dare``
    """

    density: Density = 0.5
    scale: Scale = 1.0
    rescale: Rescale = "density"
    normalize: bool = True

    def kept(self, tensor: Tensor, base: Tensor, draw: Draw | None, place: int) -> Kept:
        """Values that the draw leaves."""
        return thinned(tensor, base, self.density, self.rescale, draw, place)


def _vector(tensor: Tensor, base: Tensor) -> Tensor:
    """Absolute values ``[n]`` of the task vector."""
    flat = empty([tensor, base])[1]
    for at, values in blocks([tensor], base):
        torch.abs(values[0], out=flat[at])
    return flat


def largest(tensor: Tensor, base: Tensor, density: float) -> Tensor | None:
    """Which values ``[n]`` of the task vector are its largest; of equal ones the first. None: all."""
    count = tensor.numel()
    wanted = max(1, int(density * count))
    if wanted >= count:
        return None
    sizes = _vector(tensor, base)
    edge = float(np.partition(sizes.cpu().numpy(), count - wanted)[count - wanted])  # kthvalue keeps every index, too
    kept = sizes > edge
    equal = sizes == edge
    lacking = wanted - int(kept.count_nonzero())
    if int(equal.count_nonzero()) > lacking:
        equal[equal.nonzero()[lacking:, 0]] = False
    return kept.logical_or_(equal)


def thinned(tensor: Tensor, base: Tensor, density: float, rescale: Rescale, draw: Draw | None, place: int) -> Kept:
    """Which values ``[n]`` of the task vector the draw leaves, and by what they are multiplied."""
    if draw is None:
        raise ConfigError("draw: values are dropped at random; give the draws, such as seeded(seed, name)")
    if density == 1:
        return None, 1.0
    kept = draw(place, tensor.numel()) < density
    if rescale == "density":
        return kept, 1 / density
    sizes = _vector(tensor, base)
    before, after = float(sizes.sum()), float(sizes.mul_(kept).sum())
    return kept, before / after if min(before, after) >= 1e-7 else 1.0
