"""A topology with an attacker in it: identities that honest peers took for neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hubless.net.edges import Edges
from hubless.net.keyed import generator
from hubless.net.topology import Topology


@dataclass(frozen=True)
class Infiltrated(Topology):
    """A graph of honest peers, the first ones, and identities of an attacker, the last ones, each linked to a few.

    Attack edges per identity are the density ``phi`` of arXiv 2306.15044: with few, no honest peer meets two of them.

    graph:      the topology of the honest peers
    identities: of the attacker
    edges:      attack edges an identity; all of them together are spread over the honest peers as evenly as they go
    """

    graph: Topology
    identities: int
    edges_each: int

    def _trouble(self, n: int) -> str | None:
        honest = n - self.identities
        if honest < 1:
            return f"{self.identities} identities leave no honest peer"
        if not 1 <= self.edges_each <= honest:
            return f"an identity has {self.edges_each} edges, but must have between 1 and {honest}"
        return self.graph.trouble(honest)

    def period(self, n: int) -> int | None:
        """That of the honest peers' graph."""
        return self.graph.period(n - self.identities)

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        honest = n - self.identities
        inside = self.graph.edges(honest, t, seed)
        order = generator("infiltrated", seed, n).permutation(honest)
        count = self.identities * self.edges_each
        met = order[np.arange(count) % honest]
        identity = honest + np.arange(count) // self.edges_each
        links = Edges.of(n, identity, met)
        both = np.concatenate([inside.src, links.src]), np.concatenate([inside.dst, links.dst])
        return Edges.of(n, *both, both=False)
