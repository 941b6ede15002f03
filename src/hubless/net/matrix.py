"""Mixing weights that are given, as a matrix in a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hubless.errors import ConfigError
from hubless.net.edges import Edges
from hubless.net.mixing import Floats, Weights
from hubless.parts import part

TOLERANCE = 1e-6  # of a sum of weights: files hold rounded numbers


@dataclass(frozen=True, eq=False)
class Matrix(Weights):
    """``W [n, n]`` as it is: row i holds what peer i takes of each, itself included.

    where: what to call it in errors
    """

    matrix: Floats
    where: str = "matrix"

    def __post_init__(self) -> None:
        w = self.matrix
        if w.ndim != 2 or w.shape[0] != w.shape[1]:
            raise ConfigError(f"weights: {self.where} must be a square matrix, not of shape {w.shape}")
        if not np.all(np.isfinite(w)) or np.any(w < 0):
            raise ConfigError(f"weights: {self.where} must hold numbers >= 0")
        sums = w.sum(1)
        if len(wrong := np.flatnonzero(np.abs(sums - 1) > TOLERANCE)):
            raise ConfigError(
                f"weights: {self.where} is not row-stochastic: row {wrong[0]} sums to {sums[wrong[0]]:g}, not 1"
            )

    def check(self, edges: Edges) -> None:
        """One row a peer, and no weight where there is no edge."""
        if len(self.matrix) != edges.n:
            raise ConfigError(f"weights: {self.where} has {len(self.matrix)} rows, but there are {edges.n} peers")
        linked = np.eye(edges.n, dtype=bool)
        linked[edges.dst, edges.src] = True
        if len(apart := np.argwhere((self.matrix > 0) & ~linked)):
            to, of = apart[0]
            raise ConfigError(
                f"weights: in {self.where} peer {to} takes from peer {of}, which the topology does not link"
            )

    def weigh(self, edges: Edges, sizes: Floats) -> tuple[Floats, Floats]:
        """See ``Weights.weigh``."""
        self.check(edges)
        return self.matrix[edges.dst, edges.src], self.matrix.diagonal().copy()


@part("weights", "matrix")
def matrix(path: str) -> Matrix:
    """A row-stochastic matrix from a JSON file: its rows, or a table with them under ``pi``."""
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = np.array(held["pi"] if isinstance(held, dict) else held, dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"weights: {path} holds no matrix: {error}") from None
    return Matrix(rows, path)
