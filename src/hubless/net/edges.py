"""Who talks to whom in one round: a list of directed edges between peers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import networkx

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Edges:
    """Directed edges without self-loops, unique and sorted by (dst, src); an undirected graph holds both directions.

    n:   number of peers
    src: [E] sender of each edge
    dst: [E] receiver of each edge
    """

    n: int
    src: Ids
    dst: Ids

    @staticmethod
    def of(n: int, src: ArrayLike, dst: ArrayLike, *, both: bool = True) -> Edges:
        """Edges of any order; self-loops and repetitions are dropped. ``both`` adds the other direction of each."""
        a, b = np.asarray(src, dtype=np.int64).ravel(), np.asarray(dst, dtype=np.int64).ravel()
        if both:
            a, b = np.concatenate([a, b]), np.concatenate([b, a])
        codes = np.unique(b[a != b] * n + a[a != b])
        return Edges(n, codes % n, codes // n)

    def __len__(self) -> int:
        return len(self.src)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Edges):
            return NotImplemented
        return self.n == other.n and np.array_equal(self.src, other.src) and np.array_equal(self.dst, other.dst)

    @property
    def symmetric(self) -> bool:
        """Whether each edge has its reverse."""
        return np.array_equal(np.sort(self.src * self.n + self.dst), self.dst * self.n + self.src)

    @property
    def degree(self) -> Ids:
        """[n] how many peers each peer receives from."""
        return np.bincount(self.dst, minlength=self.n).astype(np.int64)

    @property
    def out_degree(self) -> Ids:
        """[n] how many peers each peer sends to."""
        return np.bincount(self.src, minlength=self.n).astype(np.int64)

    @property
    def starts(self) -> Ids:
        """[n + 1] the edges into peer i are ``starts[i]:starts[i + 1]``."""
        return np.concatenate([[0], np.cumsum(self.degree)]).astype(np.int64)

    def components(self) -> Ids:
        """[n] label of each peer's component; peers are in one where each can reach the other (strong components)."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        matrix = csr_array((np.ones(len(self), dtype=np.int8), self.src, self.starts), shape=(self.n, self.n))
        return connected_components(matrix, directed=True, connection="strong")[1].astype(np.int64)

    @property
    def connected(self) -> bool:
        """Whether what any peer knows can reach every other."""
        return len(np.unique(self.components())) == 1

    def graph(self) -> networkx.Graph[Any]:
        """The same as a networkx graph, directed only if the edges are."""
        import networkx

        graph: networkx.Graph[Any] = networkx.Graph() if self.symmetric else networkx.DiGraph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from(zip(self.src.tolist(), self.dst.tolist(), strict=True))
        return graph
