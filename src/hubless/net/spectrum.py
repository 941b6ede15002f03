"""Eigenvalues of mixing matrices, dense for few peers and by Lanczos or Arnoldi iteration for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DENSE = 400
NOISE = 1e-12


def sparse(n: int, src: NDArray[np.int64], starts: NDArray[np.int64], weight: Floats) -> Any:
    """W as a scipy CSR array."""
    from scipy.sparse import csr_array

    return csr_array((weight, src, starts), shape=(n, n))


def gap(n: int, src: NDArray[np.int64], starts: NDArray[np.int64], weight: Floats) -> float:
    """1 minus the second largest modulus of the eigenvalues of a row-stochastic W."""
    if n == 1:
        return 1.0
    matrix = sparse(n, src, starts, weight)
    symmetric = abs(matrix - matrix.T).max() < NOISE
    if n <= DENSE:
        dense = matrix.toarray()
        values = np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)
        return _gap(float(np.sort(np.abs(values))[-2]))
    return _gap(_second(matrix, symmetric))


def _second(matrix: Any, symmetric: bool) -> float:
    """Modulus of the second eigenvalue of a large W; near 1 the iteration is slow, so there W is inverted about 1."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigs, eigsh

    find = eigsh if symmetric else eigs
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        values = find(matrix, k=2, which="LM", v0=start, ncv=40, tol=1e-6, maxiter=50, return_eigenvectors=False)
    except ArpackNoConvergence:
        values = find(matrix.tocsc(), k=2, sigma=1 + 1e-9, v0=start, return_eigenvectors=False)
    return float(np.sort(np.abs(values))[-2])


def product_gap(matrices: Sequence[Any]) -> float:
    """1 - s^(1/k) for k matrices applied in turn; s is the norm of their product across disagreement."""

    def squared(x: Floats) -> Floats:
        for matrix in matrices:
            x = matrix @ x
        x = x - x.mean()
        for matrix in reversed(matrices):
            x = matrix.T @ x
        return x

    return _gap(float(np.sqrt(_largest(squared, matrices[0].shape[0])) ** (1 / len(matrices))))


def expected_gap(matrices: Sequence[Any]) -> float:
    """1 - sqrt(p); p is the largest eigenvalue of the mean of W' (I - J) W, where J averages."""

    def squared(x: Floats) -> Floats:
        total = np.zeros_like(x)
        for matrix in matrices:
            mixed = matrix @ x
            total += matrix.T @ (mixed - mixed.mean())
        return total / len(matrices)

    return _gap(float(np.sqrt(_largest(squared, matrices[0].shape[0]))))


def _largest(apply: Callable[[Floats], Floats], n: int) -> float:
    """The largest eigenvalue of a symmetric positive map of [n] vectors, 0 where it is only rounding."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    if n <= DENSE:
        value = float(np.linalg.eigvalsh(np.stack([apply(row) for row in np.eye(n)]))[-1])
    else:
        operator: Any = LinearOperator((n, n), matvec=lambda x: apply(np.ravel(x)), dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(n)
        value = float(eigsh(operator, k=1, v0=start, tol=1e-6, return_eigenvectors=False)[0])
    return value if value > NOISE else 0.0


def _gap(modulus: float) -> float:
    return float(min(1.0, max(0.0, 1 - modulus)))
