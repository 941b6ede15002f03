"""Clusters: peers whose samples resemble each other, found by k-means on the inputs; and a least size for any split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hubless.data.partition import Partition, Rows
from hubless.data.shifts import Shifted
from hubless.errors import ConfigError, PartitionError
from hubless.options import Whole
from hubless.parts import part

ROUNDS = 50  # of Lloyd's algorithm at most
Points = NDArray[np.float64]


@part("partition", "kmeans")
@dataclass(frozen=True)
class KMeans(Partition):
    """Every peer holds one cluster of the inputs, as k-means finds it; sizes differ as the clusters do.

    In two stages (arXiv 2501.05450): many fine clusters first, whose centres, each with the weight of its
    samples, are then clustered into one coarse cluster a peer.

    fine: clusters of the first stage; 0 clusters the samples at once
    """

    fine: Whole = 256
    needs_inputs = True

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Rows of every cluster of the inputs ``y [M, ...]``. Raises ConfigError for targets in their place."""
        if y.ndim < 2 or y.dtype.kind != "f":
            raise ConfigError(f"kmeans: clusters inputs of real numbers, not what has the shape {y.shape} ({y.dtype})")
        if 0 < self.fine < peers:
            raise ConfigError(f"kmeans: fine = {self.fine}: must be 0, or at least the {peers} peers")
        with threadpool_limits(1):  # the last bits of a product depend on the number of threads
            owner = self._owners(y.reshape(len(y), -1).astype(np.float64), peers, rng)
        return [np.flatnonzero(owner == peer) for peer in range(peers)]

    def _owners(self, x: Points, peers: int, rng: np.random.Generator) -> Rows:
        owner = np.arange(len(x))
        if 0 < self.fine < len(x):
            owner = cluster(x, np.ones(len(x)), self.fine, rng)
        weight = np.bincount(owner).astype(np.float64)
        centres = _means(x, np.ones(len(x)), owner, len(weight))
        return cluster(centres, weight, peers, rng)[owner]


def cluster(x: Points, weight: Points, k: int, rng: np.random.Generator) -> Rows:
    """The cluster of each of the points ``x [M, d]`` with weights ``[M]``, none of the ``k <= M`` empty.

    Lloyd's algorithm from centres that are drawn far from each other (k-means++, Arthur and Vassilvitskii 2007).
    """
    centres = x[[rng.choice(len(x), p=weight / weight.sum())]]
    near = _distances(x, centres)[:, 0]
    for _ in range(1, k):
        chance = weight * near
        chosen = rng.choice(len(x), p=chance / chance.sum() if chance.any() else None)
        centres = np.concatenate([centres, x[[chosen]]])
        near = np.minimum(near, _distances(x, x[[chosen]])[:, 0])
    owner = np.full(len(x), -1)
    for _ in range(ROUNDS):
        before, owner = owner, _filled(_distances(x, centres), k)
        if np.array_equal(before, owner):
            break
        centres = _means(x, weight, owner, k)
    return owner


def _distances(x: Points, centres: Points) -> Points:
    """Squared distances ``[M, k]``."""
    found: Points = (x**2).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)
    return found.clip(0)


def _filled(distances: Points, k: int) -> Rows:
    """The nearest centre of each point; one that has no point is given that which lies farthest from its own."""
    owner: Rows = distances.argmin(1)
    sizes = np.bincount(owner, minlength=k)
    for empty in np.flatnonzero(sizes == 0):
        own = np.where(sizes[owner] > 1, distances[np.arange(len(owner)), owner], -1)
        moved = own.argmax()
        sizes[owner[moved]] -= 1
        owner[moved], sizes[empty] = empty, 1
    return owner


def _means(x: Points, weight: Points, owner: Rows, k: int) -> Points:
    """The centre of mass of each cluster ``[k, d]``; none is empty."""
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(k))
    total = np.add.reduceat(weight[order], first)
    found: Points = np.add.reduceat((x * weight[:, None])[order], first) / total[:, None]
    return found


@dataclass(frozen=True)
class AtLeast(Shifted):
    """Another partition, refused where it leaves a peer with too few samples.

    least: samples that every peer must have
    why:   what asks for so many, in words
    """

    least: int
    why: str = "what is asked of a peer"

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """What the base deals. Raises PartitionError, naming the smallest part, when that is too small."""
        held = super().deal(y, peers, rng)
        sizes = [len(rows) for rows in held]
        if min(sizes) < self.least:
            small = sizes.index(min(sizes))
            raise PartitionError(
                f"partition: {self} leaves peer {small} of {peers} with {sizes[small]} samples, fewer than"
                f" {self.least} ({self.why}); use fewer peers, more samples or a smaller batch"
            )
        return held

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """As the base does."""
        base: Partition = self.base
        return base.shift(x, peer, peers)

    def __str__(self) -> str:
        return str(self.base)
