"""Topologies with the same edges in every round, none of them random."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from hubless.errors import ConfigError
from hubless.net.edges import Edges, Ids
from hubless.net.topology import Topology
from hubless.options import Count
from hubless.parts import part


@part("topology", "ring")
@dataclass(frozen=True)
class Ring(Topology):
    """Every peer has the one before and the one after it."""

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        ids = np.arange(n)
        return Edges.of(n, ids, (ids + 1) % n)


@part("topology", "line")
@dataclass(frozen=True)
class Line(Topology):
    """A ring cut open between the last peer and peer 0."""

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        return Edges.of(n, np.arange(n - 1), np.arange(1, n))


@part("topology", "grid")
@dataclass(frozen=True)
class Grid(Topology):
    """Rows and columns, row by row, as square as possible.

    A number of peers that fills no rectangle up to 2:1 has rows of ceil(sqrt(n)), the last one short; a torus,
    whose rows and columns close to rings, is refused for a number that fills no rectangle at all (a prime).
    """

    torus: bool = False

    def shape(self, n: int) -> tuple[int, int]:
        """Rows and columns of ``n`` peers."""
        rows = next(r for r in range(isqrt(n), 0, -1) if n % r == 0)
        if self.torus or n <= 2 * rows * rows:
            return rows, n // rows
        columns = isqrt(n - 1) + 1
        return -(-n // columns), columns

    def _trouble(self, n: int) -> str | None:
        if self.torus and n > 3 and self.shape(n)[0] == 1:
            return f"they fill no rectangle; try {n - 1} or {n + 1} peers, or grid without torus"
        return None

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        rows, columns = self.shape(n)
        ids = np.arange(n)
        row, column = ids // columns, ids % columns
        if self.torus:
            right, below = row * columns + (column + 1) % columns, (row + 1) % rows * columns + column
            return Edges.of(n, np.tile(ids, 2), np.concatenate([right, below]))
        has_right, has_below = (column + 1 < columns) & (ids + 1 < n), ids + columns < n
        src = np.concatenate([ids[has_right], ids[has_below]])
        return Edges.of(n, src, np.concatenate([ids[has_right] + 1, ids[has_below] + columns]))


@part("topology", "full")
@dataclass(frozen=True)
class Full(Topology):
    """Everyone talks to everyone."""

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        codes = np.arange(n * n)
        src, dst = codes % n, codes // n
        return Edges(n, src[src != dst], dst[src != dst])


@part("topology", "star")
@dataclass(frozen=True)
class Star(Topology):
    """Everyone talks to peer 0 only: a hub, for comparison."""

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        return Edges.of(n, np.zeros(n - 1), np.arange(1, n))


@part("topology", "tree")
@dataclass(frozen=True)
class Tree(Topology):
    """A complete tree in breadth-first order; peer 0 is the root and every peer has up to ``arity`` children."""

    arity: Count = 2

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        children = np.arange(1, n)
        return Edges.of(n, children, (children - 1) // self.arity)


def hops(n: int) -> Ids:
    """[ceil(log2 n)] the powers of two below ``n``."""
    return 2 ** np.arange((n - 1).bit_length(), dtype=np.int64)


@part("topology", "exponential")
@dataclass(frozen=True)
class Exponential(Topology):
    """Directed: peer i sends to i + 1, i + 2, i + 4, ... modulo n (static exponential graph, Ying et al. 2021)."""

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        src, hop = np.meshgrid(np.arange(n), hops(n), indexing="ij")
        return Edges.of(n, src, (src + hop) % n, both=False)


@part("topology", "edges")
@dataclass(frozen=True)
class EdgeFile(Topology):
    """Edges from a text file: two peer ids from 0 on each line, ``#`` starts a comment.

    ``directed`` takes each line as an edge from the first peer to the second only.
    """

    path: Path
    directed: bool = False

    def _edges(self, n: int, t: int, seed: int) -> Edges:
        try:
            lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self}: cannot read the edge list: {error}") from None
        pairs = [self._pair(n, number, line) for number, line in enumerate(lines, 1) if line.split("#")[0].strip()]
        if not pairs and n > 1:
            raise ConfigError(f"{self}: the file has no edges")
        table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        return Edges.of(n, table[:, 0], table[:, 1], both=not self.directed)

    def _pair(self, n: int, number: int, line: str) -> tuple[int, int]:
        place = f"{self.path}, line {number}"
        words = line.split("#")[0].split()
        try:
            src, dst = (int(word) for word in words)
        except ValueError:
            raise ConfigError(f"{place}: {line.strip()!r} is not two peer ids") from None
        for peer in (src, dst):
            if not 0 <= peer < n:
                raise ConfigError(f"{place}: no peer {peer}; the {n} peers are 0 to {n - 1}")
        if src == dst:
            raise ConfigError(f"{place}: an edge from peer {src} to itself")
        return src, dst

    def __str__(self) -> str:
        return f"edges:{self.path}"
