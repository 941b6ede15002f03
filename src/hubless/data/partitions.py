"""The partitions that can be asked for by name: how labels and amounts of data differ among peers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.clusters import KMeans
from hubless.data.mixtures import Mixture
from hubless.data.partition import IID, Partition, Rows, counts
from hubless.data.shifts import Domains, Inversion, Rotation
from hubless.errors import ConfigError
from hubless.options import Count, Positive
from hubless.parts import part

__all__ = [
    "IID",
    "Classes",
    "Contiguous",
    "Dirichlet",
    "Domains",
    "Inversion",
    "KMeans",
    "Mixture",
    "Partition",
    "Quantity",
    "Rotation",
    "Rows",
    "Shards",
    "Windows",
    "counts",
]

TRIES = 20


@part("partition", "dirichlet")
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each class is shared out by Dirichlet(alpha) proportions (Yurochkin et al. 2019, arXiv 1905.12022).

    alpha:    small values give peers few classes; large ones approach iid
    min_size: every peer has at least so many samples. Up to 20 draws are tried (as Li et al. 2021 do); if
              none will do, the largest peers of the last draw give random samples to the smallest
    """

    alpha: Positive
    min_size: Count = 1
    needs_labels = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < np.inf:
            raise ConfigError(f"dirichlet: alpha = {self.alpha} must be greater than 0 and finite")
        _at_least_one("dirichlet", "min_size", self.min_size)

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Raises ConfigError when there are fewer than ``peers * min_size`` samples."""
        if len(y) < peers * self.min_size:
            raise ConfigError(
                f"dirichlet: {len(y)} samples cannot give {peers} peers min_size = {self.min_size} each "
                f"(needs {peers * self.min_size})"
            )
        by_class = [np.flatnonzero(y == label) for label in np.unique(y)]
        owner = np.empty(len(y), np.int64)
        for _ in range(TRIES):
            for rows in by_class:
                edges = np.cumsum(rng.dirichlet(np.full(peers, self.alpha)))[:-1] * len(rows)
                shuffled = rng.permutation(rows)
                for_peer = np.searchsorted(np.floor(edges + 1e-9), np.arange(len(rows)), side="right")
                owner[shuffled] = for_peer
            sizes = np.bincount(owner, minlength=peers)
            if sizes.min() >= self.min_size:
                break
        held = _by_owner(owner, peers)
        return held if sizes.min() >= self.min_size else _top_up(held, self.min_size, rng)


@part("partition", "shards")
@dataclass(frozen=True)
class Shards(Partition):
    """Samples sorted by label, cut into k shards a peer, dealt at random (McMahan et al. 2017, section 3)."""

    k: Count = 2
    needs_labels = True

    def __post_init__(self) -> None:
        _at_least_one("shards", "k", self.k)

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Raises ConfigError when there are fewer samples than shards."""
        if len(y) < self.k * peers:
            raise ConfigError(f"shards: {len(y)} samples cannot make {self.k} shards for each of {peers} peers")
        mixed = rng.permutation(len(y))
        cut = np.array_split(mixed[np.argsort(y[mixed], kind="stable")], self.k * peers)
        dealt = rng.permutation(self.k * peers).reshape(peers, self.k)
        return [np.concatenate([cut[shard] for shard in hand]) for hand in dealt]


@part("partition", "classes")
@dataclass(frozen=True)
class Classes(Partition):
    """Every peer holds exactly k classes, drawn so that all classes have equally many holders, give or take one."""

    k: Count = 2
    needs_labels = True

    def __post_init__(self) -> None:
        _at_least_one("classes", "k", self.k)

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Raises ConfigError when k exceeds the classes, or classes or holders would be left without samples."""
        classes = len(np.unique(y))
        holders = np.zeros(classes, int)
        hands = []
        for _ in range(peers):  # the k classes with the fewest holders so far, ties broken at random
            hand = np.lexsort((rng.random(classes), holders))[: self.k]
            holders[hand] += 1
            hands.append(hand)
        return _share_classes(f"classes:{self.k}", self.k, y, hands, rng)


@part("partition", "windows")
@dataclass(frozen=True)
class Windows(Partition):
    """Peer i holds ``width`` consecutive classes from class i * step on, around the circle of classes.

    Neighbours on a ring share ``width - step`` classes; distant peers none.
    """

    width: Count = 2
    step: Count = 1
    needs_labels = True

    def __post_init__(self) -> None:
        _at_least_one("windows", "width", self.width)
        _at_least_one("windows", "step", self.step)

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Raises ConfigError when the width exceeds the classes, or a class has no holder or too few samples."""
        classes = len(np.unique(y))
        hands = [(peer * self.step + np.arange(self.width)) % classes for peer in range(peers)]
        return _share_classes(f"windows:{self.width}:{self.step}", self.width, y, hands, rng)


@part("partition", "quantity")
@dataclass(frozen=True)
class Quantity(Partition):
    """Amounts of data follow Dirichlet(alpha), labels are iid (Li et al. 2021, arXiv 2102.02079, section 4.3)."""

    alpha: Positive = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.alpha < np.inf:
            raise ConfigError(f"quantity: alpha = {self.alpha} must be greater than 0 and finite")

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """One sample a peer, the rest by the drawn shares."""
        edges = np.cumsum(rng.dirichlet(np.full(peers, self.alpha)))[:-1] * (len(y) - peers)
        bounds = np.floor(edges + 1e-9).astype(int) + np.arange(1, peers)
        return np.split(rng.permutation(len(y)), bounds)


@part("partition", "contiguous")
@dataclass(frozen=True)
class Contiguous(Partition):
    """Samples in their order, cut into equal runs, one for each peer: of a text, peers hold different chapters."""

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Chance decides who holds which run; where samples were drawn from more, the order is that of the draw."""
        runs = np.array_split(np.arange(len(y)), peers)
        return [runs[i] for i in rng.permutation(peers)]


def _at_least_one(name: str, field: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name}: {field} = {value} must be at least 1")


def _by_owner(owner: Rows, peers: int) -> list[Rows]:
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owner, minlength=peers))[:-1])


def _top_up(held: list[Rows], least: int, rng: np.random.Generator) -> list[Rows]:
    """Every peer that lacks samples is given random ones, each by whoever is largest at that moment."""
    stacks = [list(rng.permutation(rows)) for rows in held]
    largest = [(-len(stack), peer) for peer, stack in enumerate(stacks) if len(stack) > least]
    heapq.heapify(largest)
    for stack in stacks:
        while len(stack) < least:
            size, donor = heapq.heappop(largest)
            stack.append(stacks[donor].pop())
            if -size - 1 > least:
                heapq.heappush(largest, (size + 1, donor))
    return [np.array(stack, np.int64) for stack in stacks]


def _share_classes(
    name: str, k: int, y: NDArray[Any], hands: Sequence[Rows], rng: np.random.Generator
) -> Sequence[NDArray[Any]]:
    """Each class in equal parts to the peers whose hand has it."""
    labels = np.unique(y)
    if k > len(labels):
        raise ConfigError(f"{name}: a peer cannot hold {k} classes, the data has {len(labels)}")
    held: list[list[Rows]] = [[] for _ in hands]
    for place, label in enumerate(labels):
        holders = [peer for peer, hand in enumerate(hands) if place in hand]
        rows = rng.permutation(np.flatnonzero(y == label))
        if not holders:
            raise ConfigError(f"{name}: {len(hands)} peers leave class {label} of {len(labels)} without a holder")
        if len(rows) < len(holders):
            raise ConfigError(f"{name}: class {label} has {len(rows)} samples for its {len(holders)} holders")
        for peer, share in zip(holders, np.array_split(rows, len(holders)), strict=True):
            held[peer].append(share)
    return [np.concatenate(shares) for shares in held]
