"""PBM: the Poisson binomial mechanism, the baseline of RQM (arXiv 2207.09916, algorithm 1).

A coordinate x in [-c, c] becomes the number of successes in m trials of probability ``1/2 + theta x / c``. Sums of such
numbers over peers are Poisson binomial. m counts trials, so there are m + 1 outcomes: compare mechanisms by bits.
"""

from __future__ import annotations

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
class PBM(Coordinatewise):
    """The Poisson binomial mechanism; its worst inputs are the ends.

    theta: how far the probability of success moves from 1/2, in (0, 1/2)
    """

    theta: float = 0.25

    def __post_init__(self) -> None:
        bounded(self.c)
        if self.m < 1:
            raise ConfigError(f"pbm.m = {self.m}: there must be at least 1 trial")
        if not 0 < self.theta < 0.5:
            raise ConfigError(f"pbm.theta = {self.theta:g}: must be in (0, 0.5)")

    @property
    def outcomes(self) -> int:
        """0 to m successes."""
        return self.m + 1

    def pmf(self, x: float) -> Array:
        """Binomial probabilities ``[m + 1]``."""
        p = 0.5 + self.theta * x / self.c
        return np.array([math.comb(self.m, k) * p**k * (1 - p) ** (self.m - k) for k in range(self.m + 1)])

    def draw(self, x: Tensor, key: keys.Key) -> Tensor:
        """Successes for coordinates, one trial of all of them after the other."""
        shape = tuple(x.shape[key.dim() if isinstance(key, Tensor) else 0 :])
        p = 0.5 + x * (self.theta / self.c)
        z = torch.zeros_like(x, dtype=torch.int64)
        for trial in range(self.m):
            z = z + (unit(keys.fold(key, trial), shape, x.device) <= p)
        return z

    def decode(self, total: Tensor, count: int = 1) -> Tensor:
        """``c / (m theta) (total / count - m / 2)``."""
        return (total / count - self.m / 2) * (self.c / (self.m * self.theta))


@part("codec", "pbm")
def pbm(c: float, m: int = 16, theta: float = 0.25) -> Codec:
    """Updates clipped to [-c, c], each coordinate sent as the successes of m trials."""
    return PBM(m, c, theta).codec()
