"""Mixing weights: how much each peer takes of what it hears, itself included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hubless.errors import ConfigError
from hubless.net import spectrum
from hubless.net.edges import Edges, Ids
from hubless.net.topology import LONGEST_PERIOD, Topology
from hubless.parts import make, part

Floats = NDArray[np.float64]
TOLERANCE = 1e-9
DRAWS = 64


@dataclass(frozen=True, eq=False)
class Mixing:
    """Weighted edges, self-loops included, sorted by (dst, src); the weights into each peer sum to 1.

    n:      number of peers
    src:    [E] sender of each edge
    dst:    [E] receiver of each edge
    weight: [E] share of the sender in what the receiver has afterwards
    """

    n: int
    src: Ids
    dst: Ids
    weight: Floats

    @property
    def starts(self) -> Ids:
        """[n + 1] the edges into peer i are ``starts[i]:starts[i + 1]``, as in a CSR matrix."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.dst, minlength=self.n))]).astype(np.int64)

    @property
    def row_stochastic(self) -> bool:
        """Whether the weights into each peer sum to 1; ``mix`` makes no others."""
        return bool(np.allclose(np.bincount(self.dst, self.weight, self.n), 1, atol=TOLERANCE))

    @property
    def doubly_stochastic(self) -> bool:
        """Whether the weights out of each peer sum to 1, too: then mixing keeps the mean of all peers."""
        return self.row_stochastic and bool(np.allclose(np.bincount(self.src, self.weight, self.n), 1, atol=TOLERANCE))

    def matrix(self) -> Floats:
        """[n, n] dense W with ``W[dst, src] = weight``: one mixing is ``W @ X``."""
        dense = np.zeros((self.n, self.n))
        dense[self.dst, self.src] = self.weight
        return dense

    def spectral_gap(self) -> float:
        """1 minus the second largest modulus of W's eigenvalues: 1 agrees at once, 0 never.

        The disagreement shrinks by (1 - gap) a mixing in the long run.
        """
        return spectrum.gap(self.n, self.src, self.starts, self.weight)


class Weights(ABC):
    """Base of the weight rules, which are frozen dataclasses."""

    needs_sizes = False

    def check(self, edges: Edges) -> None:  # noqa: B027 - most rules weigh whatever there is
        """Raise ConfigError where the rule cannot weigh such edges."""

    @abstractmethod
    def weigh(self, edges: Edges, sizes: Floats) -> tuple[Floats, Floats]:
        """Non-negative weights [E] of the edges and [n] of each peer for itself; ``mix`` divides by their sum."""


@part("weights", "metropolis")
@dataclass(frozen=True)
class Metropolis(Weights):
    """1 / (1 + the larger degree of both ends), the rest for oneself (Xiao, Boyd, Kim 2007).

    Doubly stochastic for undirected edges, and for directed ones where all peers have the same degrees. A directed
    edge counts the in-degree of its receiver and the out-degree of its sender.
    """

    def weigh(self, edges: Edges, sizes: Floats) -> tuple[Floats, Floats]:
        """See ``Weights.weigh``."""
        weight = 1.0 / (1 + np.maximum(edges.degree[edges.dst], edges.out_degree[edges.src]))
        return weight, 1 - np.bincount(edges.dst, weight, edges.n).astype(np.float64)


@part("weights", "uniform")
@dataclass(frozen=True)
class Uniform(Weights):
    """The same for oneself and everyone heard. Row-stochastic; doubly where all degrees are equal."""

    def weigh(self, edges: Edges, sizes: Floats) -> tuple[Floats, Floats]:
        """See ``Weights.weigh``."""
        return np.ones(len(edges)), np.ones(edges.n)


@part("weights", "data-size")
@dataclass(frozen=True)
class DataSize(Weights):
    """In proportion to the number of samples (DecAvg, arXiv 2310.02986). Row-stochastic.

    A peer without data counts as the mean of those that have some, so that it relays what it hears.
    """

    needs_sizes = True

    def weigh(self, edges: Edges, sizes: Floats) -> tuple[Floats, Floats]:
        """See ``Weights.weigh``."""
        some = sizes > 0
        counted = np.where(some, sizes, sizes[some].mean() if some.any() else 1.0)
        return counted[edges.src], counted


def mix(edges: Edges, rule: Weights | str = "metropolis", sizes: ArrayLike | None = None) -> Mixing:
    """The weights of ``rule`` on ``edges``; ``sizes`` [n] are the peers' numbers of samples, for rules that ask.

    Raises ConfigError for an unknown rule, or where the sizes are missing, negative or not one a peer.
    """
    chosen: Weights = make("weights", rule)
    if sizes is None and chosen.needs_sizes:
        raise ConfigError(f"weights: {type(chosen).__name__} needs the peers' data sizes")
    given = np.ones(edges.n) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if given.shape != (edges.n,) or not np.all(given >= 0):
        raise ConfigError(f"weights: sizes must be {edges.n} numbers >= 0, one a peer")
    weight, own = chosen.weigh(edges, given)
    ids = np.arange(edges.n)
    src, dst = np.concatenate([edges.src, ids]), np.concatenate([edges.dst, ids])
    order = np.lexsort((src, dst))
    src, dst, weight = src[order], dst[order], np.concatenate([weight, own])[order]
    return Mixing(edges.n, src, dst, weight / np.bincount(dst, weight, edges.n)[dst])


def spectral_gap(
    topology: Topology,
    n: int,
    rule: Weights | str = "metropolis",
    *,
    sizes: ArrayLike | None = None,
    seed: int = 0,
) -> float:
    """How fast ``n`` peers agree on this topology, between 0 (never) and 1 (in one round).

    Static: ``Mixing.spectral_gap``. Repeating after k rounds: 1 - s^(1/k), where s is the largest factor by which
    one period can leave a disagreement. A new draw every round: 1 - sqrt(p), where p is the largest expected
    factor on the squared disagreement in a round (Koloskova et al. 2020, assumption 4), over 64 draws (too low where
    the peers are many and the edges few).
    """
    period = topology.period(n)
    if period == 1:
        return mix(topology.edges(n, 0, seed), rule, sizes).spectral_gap()
    repeats = period is not None and period <= LONGEST_PERIOD
    rounds = period if period is not None and repeats else DRAWS
    drawn = [mix(topology.edges(n, t, seed), rule, sizes) for t in range(rounds)]
    matrices = [spectrum.sparse(one.n, one.src, one.starts, one.weight) for one in drawn]
    return spectrum.product_gap(matrices) if repeats else spectrum.expected_gap(matrices)
