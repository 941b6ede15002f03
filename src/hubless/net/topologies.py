"""Every topology; importing this module registers them."""

from __future__ import annotations

from hubless.net.edges import Edges
from hubless.net.graphs import EdgeFile, Exponential, Full, Grid, Line, Ring, Star, Tree
from hubless.net.random_graphs import BarabasiAlbert, ErdosRenyi, RandomRegular, SmallWorld
from hubless.net.sequences import OnePeerExponential, RandomMatching, RandomRate, Sequence
from hubless.net.topology import Topology

__all__ = [
    "BarabasiAlbert",
    "EdgeFile",
    "Edges",
    "ErdosRenyi",
    "Exponential",
    "Full",
    "Grid",
    "Line",
    "OnePeerExponential",
    "RandomMatching",
    "RandomRate",
    "RandomRegular",
    "Ring",
    "Sequence",
    "SmallWorld",
    "Star",
    "Topology",
    "Tree",
]
