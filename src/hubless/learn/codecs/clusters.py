"""Numbers replaced by the nearest of a few centroids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs.bits import BitPack
from hubless.learn.codecs.naming import finite, parameters, replaced, restored
from hubless.learn.codecs.pipeline import Codec
from hubless.learn.context import Context, Message, State
from hubless.learn.slots import Stage
from hubless.parts import part

MOST = 256


def lloyd(x: NDArray[Any], k: int, iterations: int = 10) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Labels ``[n]`` and rising centroids ``[k]`` of k-means over the numbers ``x [n]``.

    Centroids start evenly between the smallest and the largest number; a number belongs to the nearest, halfway to the
    lower; a centroid that has none stays. Ends when no label changes or after ``iterations``.
    """
    if not len(x):
        return np.zeros(0, np.int16), np.zeros(k, np.float32)
    order, zeros = _sorted(x)
    total = np.concatenate([[0.0], np.cumsum(order)])
    centroids = np.linspace(float(order[0]), float(order[-1]), k)
    edges = np.zeros(0, np.int64)
    for _ in range(iterations):
        middle = (centroids[1:] + centroids[:-1]) / 2
        new = np.concatenate([[0], np.searchsorted(order, middle, "right"), [len(order)]])
        if np.array_equal(new, edges):
            break
        edges, borders = new, middle
        count = np.diff(edges)
        count[int(np.sum(middle < 0))] += zeros
        mean = (total[edges[1:]] - total[edges[:-1]]) / np.maximum(count, 1)
        centroids = np.where(count > 0, mean, centroids)
    labels = np.zeros(len(x), np.int16)
    for border in borders:
        labels += x > border
    return labels, centroids.astype(np.float32)


def _sorted(x: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """The numbers in order but for zeros, and how many of those there are: most of a sparse update is zeros."""
    mask = x != 0
    some = x[mask] if not mask.all() else x
    extra = len(x) - len(some)
    if extra:
        some = np.append(some, x.dtype.type(0))  # one zero stays, for the smallest and the largest
    return np.sort(some).astype(np.float64), max(0, extra - 1)


@dataclass(frozen=True)
class KMeans(Stage):
    """One of ``k`` centroids of its own tensor for every parameter: ``NAME/labels``, integers, ``NAME/centroids [k]``.

    k:          from 2 to 256
    iterations: most rounds of Lloyd's algorithm
    snap_zero:  the centroid of the largest cluster becomes 0
    """

    k: int = 16
    iterations: int = 10
    snap_zero: bool = False

    wants: ClassVar[str | None] = "delta"
    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 2 <= self.k <= MOST or self.iterations < 1:
            raise ConfigError(f"k-means: k = {self.k} must be from 2 to {MOST}, iterations = {self.iterations} from 1")

    def forward(self, m: Message, s: State, ctx: Context) -> tuple[Message, State]:
        """Labels and centroids. Raises CodecError for numbers that are not finite."""

        def change(name: str, value: Tensor) -> dict[str, Tensor] | None:
            if not parameters(name, value, ctx):
                return None
            x = finite(name, value).float().numpy().reshape(-1)
            labels, centroids = lloyd(x, self.k, self.iterations)
            if self.snap_zero and len(labels):
                centroids[np.bincount(labels).argmax()] = 0
            return {
                "labels": torch.from_numpy(labels).reshape(value.shape),
                "centroids": torch.from_numpy(centroids),
            }

        return replaced(m, change), s

    def inverse(self, m: Message, count: int, ctx: Context) -> Message:
        """Every entry's centroid. Raises CodecError for labels without one."""
        return restored(m, ("labels", "centroids"), _looked_up)


def _looked_up(name: str, parts: list[Tensor]) -> Tensor:
    labels, centroids = parts
    if labels.dtype != torch.int16 or not centroids.is_floating_point() or not 1 <= centroids.numel() <= MOST:
        raise CodecError(f"{name}: labels or centroids of a wrong type")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < centroids.numel():
        raise CodecError(f"{name}: a label has no centroid")
    return centroids.reshape(-1)[labels.long()]


@part("codec", "k-means")
def k_means(k: Annotated[int, Field(ge=2, le=MOST)] = 16) -> Codec:
    """An update's entries as one of k centroids of their tensor, in ceil(log2 k) bits each."""
    return Codec((KMeans(k), BitPack((k - 1).bit_length())))
