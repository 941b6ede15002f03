"""RQM: privacy from randomised quantisation alone (arXiv 2306.11913, algorithm 2).

Of m levels over [-X, X], X = c + delta, the two outer ones are kept, and each inner one with probability q; then a
coordinate is rounded at random, without bias, to one of the two kept levels next to it. So every level can come from
every input, without any noise being added.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.privacy.coordinates import Coordinatewise, bounded, unit
from hubless.learn.privacy.renyi import Array
from hubless.parts import part


@dataclass(frozen=True)
class Rounding(Coordinatewise):
    """Random rounding to the kept of m levels over [-c - delta, c + delta], without bias.

    delta: how far the levels reach beyond c
    q:     probability that an inner level is kept

    As it stands, all levels are kept and reach no further than c: bare stochastic rounding, which is not private.
    """

    delta: float = 0.0
    q: float = 1.0

    def __post_init__(self) -> None:
        bounded(self.c)
        if self.m < 2:
            raise ConfigError(f"rqm.m = {self.m}: there must be at least 2 levels")
        if not 0 <= self.delta < math.inf:
            raise ConfigError(f"rqm.delta = {self.delta:g}: must not be negative")
        if not 0 < self.q <= 1:
            raise ConfigError(f"rqm.q = {self.q:g}: must be in (0, 1]")

    @property
    def outcomes(self) -> int:
        """One a level."""
        return self.m

    @property
    def reach(self) -> float:
        """X, the outermost level."""
        return self.c + self.delta

    def levels(self) -> Array:
        """``B(i) = -X + 2 i X / (m - 1)``, ``[m]``."""
        return -self.reach + 2 * self.reach * np.arange(self.m) / (self.m - 1)

    def inputs(self) -> tuple[float, ...]:
        """The ends and the levels between: probabilities are linear in x from one to the next.

        A Renyi divergence is quasi-convex in either distribution, so its largest value over all pairs of inputs is
        taken at two of these. The source looks at the ends only, which are not always the worst.
        """
        inner = [float(level) for level in self.levels() if abs(level) < self.c]
        return -self.c, *inner, self.c

    def _place(self, x: float) -> float:
        return (x + self.reach) * (self.m - 1) / (2 * self.reach)

    def pmf(self, x: float) -> Array:
        """``[m]`` in O(m^2): the kept neighbours below and above are independent, geometric, cut at the ends."""
        place, q = self._place(x), self.q
        j = min(max(math.floor(place), 0), self.m - 2)
        a, b = np.arange(j + 1), np.arange(j + 1, self.m)
        lower = (1 - q) ** (j - a) * np.where(a > 0, q, 1)
        upper = (1 - q) ** (b - j - 1) * np.where(b < self.m - 1, q, 1)
        up = (place - a)[:, None] / (b - a[:, None])
        both = np.outer(lower, upper)
        return np.concatenate([(both * (1 - up)).sum(1), (both * up).sum(0)])

    def draw(self, x: Tensor, key: keys.Key) -> Tensor:
        """Levels for coordinates, all at once: as many levels are skipped on either side as a geometric draw says."""
        shape = tuple(x.shape[key.dim() if isinstance(key, Tensor) else 0 :])
        place = (x + self.reach) * ((self.m - 1) / (2 * self.reach))
        below = place.floor().clamp(0, self.m - 2)
        lower, upper = below, below + 1
        if self.q < 1:
            log = math.log1p(-self.q)
            skipped = [unit(keys.fold(key, side), shape, x.device).log().div(log).floor() for side in ("down", "up")]
            lower = (lower - skipped[0]).clamp_min(0)
            upper = (upper + skipped[1]).clamp_max(self.m - 1)
        rises = unit(keys.fold(key, "round"), shape, x.device) <= (place - lower) / (upper - lower)
        return torch.where(rises, upper, lower).to(torch.int64)

    def decode(self, total: Tensor, count: int = 1) -> Tensor:
        """``-X + 2 X total / (count (m - 1))``."""
        return total * (2 * self.reach / (count * (self.m - 1))) - self.reach


@dataclass(frozen=True)
class RQM(Rounding):
    """The randomised quantisation mechanism: ``delta`` above 0 and q below 1, without which nothing is private."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.delta > 0:
            raise ConfigError(f"rqm.delta = {self.delta:g}: must be positive")
        if not self.q < 1:
            raise ConfigError(f"rqm.q = {self.q:g}: must be in (0, 1); with every level kept nothing is private")


def calibrate(m: int, target_variance: float, *, c: float, delta: float) -> RQM:
    """The mechanism whose variance at x = 0 is the target, by bisection on q: the fewer levels, the larger it is.

    Raises ConfigError for a variance that no q gives.
    """
    few, many = 1e-9, 1 - 1e-9
    largest, smallest = (RQM(m, c, delta, q).variance(0.0) for q in (few, many))
    if not smallest <= target_variance <= largest:
        raise ConfigError(
            f"rqm.target_variance = {target_variance:g}: {m} levels at c = {c:g}, delta = {delta:g} give"
            f" {smallest:.4g} to {largest:.4g}"
        )
    for _ in range(100):
        q = (few + many) / 2
        above = RQM(m, c, delta, q).variance(0.0) > target_variance
        few, many = (q, many) if above else (few, q)
    return RQM(m, c, delta, (few + many) / 2)


def enumerated(mechanism: Rounding, x: float) -> Array:
    """What ``pmf`` must give ``[m]``, by going through all 2^(m - 2) sets of kept levels, as the source defines it."""
    m, q, levels = mechanism.m, mechanism.q, mechanism.levels()
    pmf = np.zeros(m)
    for kept in itertools.product((False, True), repeat=m - 2):
        chance = math.prod(q if keep else 1 - q for keep in kept)
        places = [0, *(i for i, keep in enumerate(kept, 1) if keep), m - 1]
        a, b = next((a, b) for a, b in itertools.pairwise(places) if x <= levels[b] or b == m - 1)
        up = (x - levels[a]) / (levels[b] - levels[a])
        pmf[b] += chance * up
        pmf[a] += chance * (1 - up)
    return pmf


@part("codec", "rqm")
def rqm(c: float, m: int = 16, delta: float = 1.0, q: float = 0.42) -> Codec:
    """Updates clipped to [-c, c] and quantised at random to m levels; delta in units of c."""
    return RQM(m, c, delta * c, q).codec()
