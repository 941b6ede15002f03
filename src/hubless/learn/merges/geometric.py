"""The geometric median: the point with the smallest sum of distances to all messages (RFA, arXiv 1912.13445)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context
from hubless.learn.merges.points import Points, Sharing
from hubless.learn.plan import Book
from hubless.learn.slots import Merge
from hubless.parts import part


@dataclass(frozen=True)
class GeometricMedian(Sharing):
    """The smoothed Weiszfeld algorithm: ``z <- sum_i b_i x_i / sum_i b_i``, ``b_i = weight_i / max(nu, |z - x_i|)``.

    It holds while hostile messages have less than half of the weight, which is the plan's. Distances go over all
    parameters jointly; BatchNorm's statistics become their coordinate-wise median.

    The source starts at the mean and takes few steps, each of which costs a secure sum. Here a step costs ``[M, M]``
    products whatever the model, so there are enough to converge; and from a mean that a hostile message dragged far
    away there would be too many, so the start is the mean of the smallest half around a message.

    steps:     of the algorithm
    smoothing: distance below which a message pulls no harder: nu, in units of the parameters
    """

    steps: int = 50
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"merge.steps = {self.steps}: must be 1 or more")
        if self.smoothing <= 0:
            raise ConfigError(f"merge.smoothing = {self.smoothing:g}: must be above 0")

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """The shares after the last step; they sum to 1."""
        weights = points.weights
        distances = points.apart.sqrt()
        half = points.count // 2 + 1
        reach = distances.sort(dim=1).values[:, half - 1, None]
        smallest = (distances <= reach) & (reach == reach.min())  # two may share it, each on the edge of the other's
        near = smallest.sum(0) * weights
        shares = near / near.sum()
        for _ in range(self.steps):
            pull = weights / points.away(shares).clamp_min(self.smoothing)
            shares = pull / pull.sum()
        return shares


@part("merge", "geometric-median")
def geometric_median(steps: int = 50, smoothing: float = 1e-6) -> Merge:
    """The point with the smallest weighted sum of distances to all that arrived."""
    return Merge(GeometricMedian(steps, smoothing))
