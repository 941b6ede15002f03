"""Projection: a data set as its principal components, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError

CHUNK = 4096  # samples at a time


@dataclass(frozen=True, eq=False)
class PCA:
    """The directions in which samples vary most.

    mean ``[D]``, axes ``[d, D]`` (orthonormal, most variance first); ``scale`` multiplies components; ``shape`` of an
    input
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    scale: float
    shape: tuple[int, ...]

    @staticmethod
    def of(data: Dataset, components: int, scale: float = 1.0) -> PCA:
        """Fitted on all training samples, never on test samples. Raises ConfigError for more components than there are.

        Fitted once a process for each set.
        """
        if data.task == "language":
            raise ConfigError(f"components: {data.name} holds tokens, which have no principal components")
        most = min(len(data.x) - 1, int(np.prod(data.shape)))
        if not 1 <= components <= most:
            raise ConfigError(f"components = {components}: must be from 1 to {most} for {data.name}")
        mean, axes = _axes(data)
        return PCA(mean, axes[:components], scale, data.shape)

    def through(self, data: Dataset) -> Dataset:
        """The set with its inputs as scaled components ``[M, d]``; targets stay."""
        name = f"{len(self.axes)} components of {data.name}"
        return replace(data, name=name, x=self._components(data.x), test_x=self._components(data.test_x))

    def back(self, components: NDArray[Any]) -> NDArray[np.float64]:
        """Inputs ``[M, ...]`` that have these components ``[M, d]`` and nothing else."""
        flat: NDArray[np.float64] = components.astype(np.float64) / self.scale @ self.axes + self.mean
        return flat.reshape(len(flat), *self.shape)

    def _components(self, x: NDArray[Any]) -> NDArray[np.float32]:
        turn = (self.axes.T * self.scale).astype(np.float32)
        with threadpool_limits(1):
            return np.concatenate([part @ turn for part in _chunks(x, self.mean)])


def _chunks(x: NDArray[Any], mean: NDArray[np.float64]) -> Iterator[NDArray[np.float32]]:
    """Centred flat rows, some at a time: a copy of all of them would take much memory."""
    for first in range(0, len(x), CHUNK):
        yield (x[first : first + CHUNK].reshape(-1, len(mean)) - mean).astype(np.float32)


@lru_cache(maxsize=2)
def _axes(data: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and all axes; the largest entry of each is positive, so that no sign depends on the machine."""
    mean = data.x.reshape(len(data.x), -1).mean(0, dtype=np.float64)
    with threadpool_limits(1):  # the last bits of a product depend on the number of threads
        spread = sum((part.T @ part).astype(np.float64) for part in _chunks(data.x, mean))
        axes = np.linalg.eigh(spread)[1].T[::-1]
    largest = np.abs(axes).argmax(1)
    return mean, axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
