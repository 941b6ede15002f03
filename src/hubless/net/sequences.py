"""Topologies that change from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np

from hubless.errors import ConfigError
from hubless.net.edges import Edges, Ids
from hubless.net.graphs import hops
from hubless.net.keyed import generator
from hubless.net.topology import Topology
from hubless.options import Positive
from hubless.parts import make, part

FEW = 32


@part("topology", "one-peer-exponential")
@dataclass(frozen=True)
class OnePeerExponential(Topology):
    """Directed: in round t peer i sends to i + 2^(t mod ceil(log2 n)) modulo n, to nobody else.

    Assran et al. 2019 (stochastic gradient push), Ying et al. 2021: with n a power of two, one period of
    halving averages exactly.
    """

    def period(self, n: int) -> int | None:
        """As many as a peer has hops."""
        return max(1, len(hops(n)))

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        ids = np.arange(n)
        return Edges.of(n, ids, (ids + hops(n)[t % len(hops(n))]) % n, both=False)


@part("topology", "random-rate")
@dataclass(frozen=True)
class RandomRate(Topology):
    """Directed: in each round each peer pulls from ``r`` uniformly drawn others in expectation (arXiv 2507.06542).

    The whole part of r is certain, the fraction is the probability of one more: with r = 0.2 a peer pulls from one
    other with probability 0.2, else from nobody. ``r`` is at most n - 1.
    """

    r: Positive

    def period(self, n: int) -> int | None:
        """None, unless everyone pulls from everyone."""
        return None if self.r < n - 1 else 1

    def _trouble(self, n: int) -> str | None:
        return f"r must be at most the number of others, {n - 1}" if self.r > n - 1 else None

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        rng = generator("random-rate", seed, n, t)
        sure = int(self.r)
        pulls = sure + (rng.random(n) < self.r - sure)
        drawn = _others(n, min(sure + 1, n - 1), rng)
        used = np.arange(drawn.shape[1]) < pulls[:, None]
        dst = np.broadcast_to(np.arange(n)[:, None], drawn.shape)
        return Edges.of(n, drawn[used], dst[used], both=False)


def _others(n: int, k: int, rng: np.random.Generator) -> Ids:
    """[n, k] for each peer ``k`` different others in random order."""
    ids = np.arange(n)[:, None]
    if k > FEW:
        drawn = rng.permuted(np.broadcast_to(np.arange(n - 1), (n, n - 1)), axis=1)[:, :k]
    else:
        drawn = rng.integers(n - 1, size=(n, k))
        for column in range(1, k):  # draw again what the row already has
            while len(again := np.flatnonzero((drawn[:, :column] == drawn[:, column : column + 1]).any(axis=1))):
                drawn[again, column] = rng.integers(n - 1, size=len(again))
    return np.asarray(drawn + (drawn >= ids), dtype=np.int64)


@part("topology", "random-matching")
@dataclass(frozen=True)
class RandomMatching(Topology):
    """In each round the peers form random pairs; with an odd number one is left alone."""

    def period(self, n: int) -> int | None:
        """None, except for the only pair of two peers."""
        return None if n > 2 else 1

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        order = generator("random-matching", seed, n, t).permutation(n)[: n // 2 * 2]
        return Edges.of(n, order[::2], order[1::2])


@part("topology", "sequence")
@dataclass(frozen=True)
class Sequence(Topology):
    """Several topologies in turn, one a round, again from the first after the last: ``Sequence((Ring(), Full()))``.

    From Python only; each is a topology or the text that names one. One that changes over time itself goes on
    by one step each time its turn comes.
    """

    topologies: tuple[Any, ...]

    def __post_init__(self) -> None:
        turns = tuple(make("topology", one) for one in self.topologies)
        if not turns or not all(isinstance(one, Topology) for one in turns):
            raise ConfigError(f"topology: a sequence takes one or more topologies, not {self.topologies!r}")
        object.__setattr__(self, "topologies", turns)

    def period(self, n: int) -> int | None:
        """None if one of the topologies is drawn anew; else its length times their common period."""
        periods = [one.period(n) for one in self.topologies]
        known = [k for k in periods if k is not None]
        return len(periods) * lcm(*known) if len(known) == len(periods) else None

    def _trouble(self, n: int) -> str | None:
        return next((f"{one}: {said}" for one in self.topologies if (said := one.trouble(n))), None)

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        turn, which = divmod(t, len(self.topologies))
        edges: Edges = self.topologies[which].edges(n, turn, seed)
        return edges

    def __str__(self) -> str:
        return "sequence of " + ", ".join(str(one) for one in self.topologies)
