"""Random topologies: drawn once for a seed, the same in every round.

A draw that is not connected is drawn again, up to ``topology.TRIES`` times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from hubless.net.edges import Edges, Ids
from hubless.net.keyed import generator
from hubless.net.topology import Topology, until_connected
from hubless.options import Count, Probability
from hubless.parts import part

if TYPE_CHECKING:
    import networkx


@part("topology", "random-regular")
@dataclass(frozen=True)
class RandomRegular(Topology):
    """Every peer has ``degree`` random neighbours.

    Pairing model; pairs that are loops or repeated swap ends with random others, so that the draw is close
    to, but not exactly, uniform. A degree above half of the peers is drawn as the complement of a lower one.
    """

    degree: Count = 4

    def _trouble(self, n: int) -> str | None:
        if self.degree >= n:
            return f"degree must be below the number of peers, {n}"
        if n * self.degree % 2:
            return "peers times degree must be even"
        if self.degree == 1 and n > 2:
            return "degree 1 makes separate pairs; it must be at least 2"
        return None

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        rng = generator("random-regular", seed, n)
        return until_connected(self, n, lambda: self._draw(n, rng))

    def _draw(self, n: int, rng: np.random.Generator) -> Edges:
        if 2 * self.degree > n - 1:
            present = np.ones((n, n), dtype=bool)
            rest = n - 1 - self.degree
            if rest:
                missing = _pairing(n, rest, rng)
                present[missing[:, 0], missing[:, 1]] = present[missing[:, 1], missing[:, 0]] = False
            return Edges.of(n, *np.nonzero(present), both=False)
        pairs = _pairing(n, self.degree, rng)
        return Edges.of(n, pairs[:, 0], pairs[:, 1])


def _pairing(n: int, degree: int, rng: np.random.Generator) -> Ids:
    """[n * degree / 2, 2] pairs without loops or repetitions, each peer in ``degree`` of them."""
    while True:
        ends = rng.permutation(np.repeat(np.arange(n), degree)).reshape(-1, 2)
        for _ in range(1000):
            bad = _unusable(n, ends)
            if not len(bad):
                return ends
            # One swap at a time for the same partner would undo itself: partners are drawn without repetition.
            partners = rng.choice(len(ends), size=len(bad), replace=False)
            for one, other in zip(bad, partners, strict=True):
                ends[one, 1], ends[other, 1] = ends[other, 1], ends[one, 1]


def _unusable(n: int, ends: Ids) -> Ids:
    """Rows that are loops, or repeat an earlier pair."""
    codes = ends.min(axis=1) * n + ends.max(axis=1)
    repeated = np.ones(len(ends), dtype=bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    return np.flatnonzero(repeated | (ends[:, 0] == ends[:, 1]))


@part("topology", "erdos-renyi")
@dataclass(frozen=True)
class ErdosRenyi(Topology):
    """Every pair of peers is linked with probability ``p``; needs p above ln(n) / n to be connected."""

    p: Probability

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        rng = generator("erdos-renyi", seed, n)
        advice = f"; p must be above about ln(n) / n = {log(n) / n:.2g}"
        return until_connected(self, n, lambda: self._draw(n, rng), advice)

    def _draw(self, n: int, rng: np.random.Generator) -> Edges:
        total = n * (n - 1) // 2
        if self.p == 0 or total == 0:
            return Edges.of(n, [], [])
        # The gaps between linked pairs are geometric (Batagelj and Brandes 2005): work for the links, not the pairs.
        linked: Ids = np.empty(0, dtype=np.int64)
        while not len(linked) or linked[-1] < total:
            gaps = rng.geometric(self.p, size=int(total * self.p * 1.1) + 16)
            linked = np.concatenate([linked, (linked[-1] if len(linked) else -1) + np.cumsum(gaps)])
        linked = linked[linked < total]
        # Pair number c, counted row by row below the diagonal, is (high, low) with c = high (high - 1) / 2 + low.
        high = ((1 + np.sqrt(1 + 8 * linked)) / 2).astype(np.int64)
        high -= high * (high - 1) // 2 > linked
        return Edges.of(n, high, linked - high * (high - 1) // 2)


@part("topology", "small-world")
@dataclass(frozen=True)
class SmallWorld(Topology):
    """A ring of ``k`` nearest neighbours where each link is moved with probability ``rewire`` (Watts-Strogatz 1998)."""

    k: Count = 4
    rewire: Probability = 0.1

    def _trouble(self, n: int) -> str | None:
        if self.k % 2:
            return "k must be even: as many neighbours on either side"
        return f"k must be below the number of peers, {n}" if self.k >= n else None

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        import networkx

        rng = generator("small-world", seed, n)
        return until_connected(
            self, n, lambda: _edges(n, networkx.watts_strogatz_graph(n, self.k, self.rewire, seed=_number(rng)))
        )


@part("topology", "barabasi-albert")
@dataclass(frozen=True)
class BarabasiAlbert(Topology):
    """A scale-free graph: each new peer links to ``m`` others in proportion to their degree. Always connected."""

    m: Count = 2

    def _trouble(self, n: int) -> str | None:
        return f"m must be below the number of peers, {n}" if self.m >= n else None

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        import networkx

        return _edges(n, networkx.barabasi_albert_graph(n, self.m, seed=_number(generator("barabasi-albert", seed, n))))


def _number(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _edges(n: int, graph: networkx.Graph[Any]) -> Edges:
    pairs = np.array(graph.edges, dtype=np.int64).reshape(-1, 2)
    return Edges.of(n, pairs[:, 0], pairs[:, 1])
