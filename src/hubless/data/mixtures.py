"""Peers with equally much data, each with its own mixture of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.partition import Partition
from hubless.errors import ConfigError
from hubless.options import Positive
from hubless.parts import part


@part("partition", "mixture")
@dataclass(frozen=True)
class Mixture(Partition):
    """Equal amounts; class proportions of a peer follow Dirichlet(alpha) (Hsu et al. 2019, arXiv 1909.06335).

    Samples are dealt without replacement. Where peers ask for more of a class than there is, its samples go to random
    ones of those who asked, and the others draw from the classes that are left.

    alpha: small values give peers few classes; large ones approach iid
    """

    alpha: Positive = 0.1
    needs_labels = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < np.inf:
            raise ConfigError(f"mixture: alpha = {self.alpha} must be greater than 0 and finite")

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Every round of dealing ends it or exhausts a class, so there are at most as many as classes."""
        _, place, left = np.unique(y, return_inverse=True, return_counts=True)
        stock = [rng.permutation(np.flatnonzero(place == c)) for c in range(len(left))]
        wanted = rng.dirichlet(np.full(len(left), self.alpha), peers)
        open_ = np.array([len(share) for share in np.array_split(rng.permutation(len(y)), peers)])
        held: list[list[NDArray[np.int64]]] = [[] for _ in range(peers)]
        while open_.any():
            chance = wanted * (left > 0)
            chance[chance.sum(axis=1) < 1e-9] = left / left.sum()
            asked = rng.multinomial(open_, chance / chance.sum(axis=1, keepdims=True))
            for c in range(len(left)):
                if asked[:, c].sum() > left[c]:
                    asked[:, c] = rng.multivariate_hypergeometric(asked[:, c], left[c])
                ends = len(stock[c]) - left[c] + np.cumsum(asked[:, c])
                for peer in np.flatnonzero(asked[:, c]):
                    held[peer].append(stock[c][ends[peer] - asked[peer, c] : ends[peer]])
            open_ -= asked.sum(axis=1)
            left = left - asked.sum(axis=0)
        return [np.concatenate(rows) for rows in held]
