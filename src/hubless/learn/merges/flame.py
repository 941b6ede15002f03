"""FLAME: the one tight cluster of more than half, clipped to the median norm, and a little noise (arXiv 2101.02281)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Context, Message
from hubless.learn.merges.clipping import cut
from hubless.learn.merges.foolsgold import cosines
from hubless.learn.merges.points import Points, Sharing, middle
from hubless.learn.plan import Book
from hubless.learn.slots import Merge
from hubless.parts import part


def majority(distances: Tensor) -> Tensor:
    """Who is in the single-linkage cluster of more than half that comes together first: a mask ``[M]``.

    This is what HDBSCAN finds with min_cluster_size ``M // 2 + 1``, min_samples 1 and a single cluster allowed, the
    source's settings: two clusters of that size cannot be, so its tree has one branch.

    distances: ``[M, M]``, symmetric, with a diagonal of 0
    """
    bridge = distances
    for stop in range(len(distances)):  # the smallest longest step on a way between two
        bridge = torch.minimum(bridge, torch.maximum(bridge[:, stop, None], bridge[stop]))
    reach = bridge.sort(dim=1).values[:, len(distances) // 2]
    first = reach.argmin()
    return bridge[first] <= reach[first]


@dataclass(frozen=True)
class Flame(Sharing):
    """The mean of the updates in the majority's cluster, each cut to the median norm S of all, and noise.

    Distances between updates are 1 - cosine, over all parameters jointly. Weights only say who counts. Of models, the
    update is the way from where the receiver's round began; the source takes the cosines of whole models, which deltas
    would not allow, and which after little training are all alike.

    noise: its standard deviation as a multiple of S (lambda); 0.001 is the source's for images
    """

    noise: float = 0.001

    starts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ConfigError(f"merge.noise = {self.noise:g}: must be 0 or more")

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """Noise is everyone's own."""
        return self.noise == 0

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """Equal ones for the cluster, less by what is cut."""
        apart = 1 - cosines(points.gram)
        kept = majority(apart - torch.diag(apart.diagonal())).double()
        norms = points.squares.clamp_min(0).sqrt()
        return kept / kept.sum() * cut(norms, middle(norms))

    def finished(self, got: Message, points: Points, book: Book, ctx: Context) -> Message:
        """Noise on everything but BatchNorm's statistics."""
        if self.noise == 0:
            return got
        spread = self.noise * middle(points.squares.clamp_min(0).sqrt()).float()
        key = keys.fold(ctx.secret, "flame")
        drawn = {name: keys.normal(keys.fold(key, name), tuple(got[name].shape)) for name in points.names}
        return got | {name: got[name] + spread * noise.to(got[name].device) for name, noise in drawn.items()}


@part("merge", "flame")
def flame(noise: float = 0.001) -> Merge:
    """The mean of the majority's cluster of updates, cut to the median norm, with a little noise."""
    return Merge(Flame(noise))
