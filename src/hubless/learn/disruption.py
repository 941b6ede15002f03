"""A disaster strikes peers of a graph: what it takes from them, and how the others do (arXiv 2310.02986)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubless.data.partition import Partition, Rows
from hubless.learn.slots import Hook, View
from hubless.net.edges import Edges
from hubless.net.faults import Faults
from hubless.net.topology import Topology

Condition = Literal["none", "data", "relay_none", "conn", "both"]
Rule = Literal["top-degree", "random", "betweenness"]
TAKES = {"data": "data", "conn": "crash", "both": "crash"}


@dataclass(frozen=True)
class Disruption:
    """Who is struck, when, and what is lost. The same peers are struck in all conditions of a seed.

    condition: none: nothing is lost
               data: their data are lost, they go on relaying
               relay_none: they never had data, all of it is with the others; nothing is lost
               conn: as relay_none, and they are lost
               both: they had their share, and are lost with it
    topology:  whose graph the rule looks at
    rule:      top-degree, random or betweenness
    fraction:  of all peers
    at:        the first round without what is lost
    """

    condition: Condition
    topology: Topology
    rule: Rule = "top-degree"
    fraction: float = 0.3
    at: int = 5

    def _event(self, kind: str) -> str:
        return f"{kind}:{100 * self.fraction:g}%:{self.rule}@{self.at}"

    @property
    def schedule(self) -> str:
        """The disaster as a schedule of faults."""
        return self._event(TAKES[self.condition]) if self.condition in TAKES else ""

    def struck(self, n: int, seed: int) -> tuple[int, ...]:
        """Ids of the struck peers, whatever they lose. Raises ConfigError when nobody would be left."""
        return _struck(self.topology, self._event("crash"), n, seed)

    def share_out(self, partition: Partition) -> Partition:
        """The split of the data that the condition begins with."""
        return Withheld(partition, self) if self.condition in ("relay_none", "conn") else partition


@lru_cache(maxsize=8)
def _struck(topology: Topology, event: str, n: int, seed: int) -> tuple[int, ...]:
    faults = Faults.of(event, n=n, seed=seed, edges=topology.edges(n, 0, seed), where="fraction")
    return tuple(faults.resolved()["0"])


@dataclass(frozen=True)
class Withheld(Partition):
    """Another partition of all samples, among those peers only that a disruption does not strike."""

    inner: Partition
    disruption: Disruption

    def split(self, y: NDArray[Any], peers: int, seed: int) -> list[Rows]:
        """As the inner partition; the struck peers have no samples."""
        struck = set(self.disruption.struck(peers, seed))
        shares = iter(self.inner.split(y, peers - len(struck), seed))
        return [np.empty(0, np.int64) if peer in struck else next(shares) for peer in range(peers)]

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """That of the inner partition, for peers who all get something."""
        return self.inner.deal(y, peers, rng)

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """That of the inner partition."""
        return self.inner.shift(x, peer, peers) if len(x) else x

    def __str__(self) -> str:
        rule, fraction = self.disruption.rule, self.disruption.fraction
        return f"{self.inner}, nothing at {fraction:.0%} of the peers ({rule})"


def remains(edges: Edges, struck: Sequence[int]) -> tuple[list[int], list[int]]:
    """Of the graph without the struck peers: who is in its largest component, and who has no neighbour left."""
    left = np.ones(edges.n, dtype=bool)
    left[list(struck)] = False
    kept = left[edges.src] & left[edges.dst]
    graph = Edges.of(edges.n, edges.src[kept], edges.dst[kept], both=False)
    part = graph.components()
    largest = np.argmax(np.bincount(part[left], minlength=part.max() + 1))
    isolated = left & (graph.degree == 0) & (graph.out_degree == 0)
    return np.flatnonzero(left & (part == largest)).tolist(), np.flatnonzero(isolated).tolist()


@dataclass(frozen=True)
class Survivors(Hook):
    """Accuracy of the peers that are not struck: of all of them, of the largest component, of the isolated.

    Components are those of the graph without the struck peers, in every condition, so that the same peers are
    compared whatever was lost.
    """

    disruption: Disruption

    def round(self, view: View) -> Mapping[str, float]:
        """Metrics of rounds in which every peer was evaluated."""
        n = view.population.n
        return self.metrics(view.peers.get("accuracy", []), n, view.seed)

    def metrics(self, accuracy: Sequence[float | None], n: int, seed: int) -> dict[str, float]:
        """The same from accuracies ``[n]``; empty when there are none."""
        struck = set(self.disruption.struck(n, seed))
        largest, isolated = remains(self.disruption.topology.edges(n, 0, seed), sorted(struck))
        groups = {"survivors": [p for p in range(n) if p not in struck], "largest": largest, "isolated": isolated}
        found = {}
        for name, peers in groups.items():
            scores = [score for peer in peers if accuracy and (score := accuracy[peer]) is not None]
            if scores:
                found[f"accuracy_{name}"] = fmean(scores)
        return found
