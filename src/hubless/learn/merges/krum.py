"""Krum and Multi-Krum: the messages with the closest neighbours (arXiv 1703.02757)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context
from hubless.learn.merges.points import Points, Sharing
from hubless.learn.plan import Book
from hubless.learn.slots import Merge
from hubless.parts import part


@dataclass(frozen=True)
class Krum(Sharing):
    """The one message whose squared distances to its M - f - 2 closest others have the smallest sum.

    Distances go over all parameters jointly; BatchNorm's statistics are those of the message that is chosen. Weights
    only say who counts. Among equals the one closest to the receiver's own message is taken: it decides for three
    messages or fewer, where the sums are always equal in pairs.

    f: hostile messages that may be among M, at most (M - 3) / 2; None takes the most that each inbox allows. An inbox
       that losses made too small for f is treated with the most that it allows, which holds no promise any more.
    """

    f: int | None = None

    def __post_init__(self) -> None:
        if self.f is not None and self.f < 0:
            raise ConfigError(f"merge.f = {self.f}: must be 0 or more")

    def check(self, inbox_size: int) -> None:
        """``2 f + 2 < M``."""
        if self.f is not None and inbox_size < 2 * self.f + 3:
            raise ConfigError(
                f"merge.f = {self.f}: Krum needs inboxes of 2 f + 3 = {2 * self.f + 3} messages or more, the receiver's"
                f" own included, but one has {inbox_size}"
            )

    def hostile(self, count: int) -> int:
        """How many of ``count`` messages are taken to be hostile."""
        most = max(0, (count - 3) // 2)
        return most if self.f is None else min(self.f, most)

    def chosen(self, count: int) -> int:
        """How many of ``count`` messages are averaged."""
        return 1

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """Equal ones for those with the smallest sums."""
        count, chosen = points.count, self.chosen(points.count)
        neighbours = min(max(1, count - self.hostile(count) - 2), count - 1)
        apart = points.apart + torch.diag(torch.full_like(points.squares, torch.inf))
        sums = apart.sort(dim=1).values[:, :neighbours].sum(1)
        near = points.squares.sort(stable=True).indices
        best = near[sums[near].sort(stable=True).indices[:chosen]]
        return torch.zeros_like(sums).scatter(0, best, torch.full_like(sums, 1 / chosen)[:chosen])


@dataclass(frozen=True)
class MultiKrum(Krum):
    """The mean of the m messages that Krum ranks first.

    m: how many; None: all but f
    """

    m: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.m is not None and self.m < 1:
            raise ConfigError(f"merge.m = {self.m}: must be 1 or more")

    def check(self, inbox_size: int) -> None:
        """As for Krum, and m messages that need not be hostile."""
        super().check(inbox_size)
        if self.m is not None and self.m > (most := inbox_size - self.hostile(inbox_size)):
            raise ConfigError(
                f"merge.m = {self.m}: of an inbox of {inbox_size} messages, {inbox_size - most} of them taken to be"
                f" hostile, at most {most} can be averaged"
            )

    def chosen(self, count: int) -> int:
        """m, or all but f."""
        most = count - self.hostile(count)
        return most if self.m is None else min(self.m, most)


@part("merge", "krum")
def krum(f: int | None = None) -> Merge:
    """The message with the closest neighbours; f hostile ones are expected, by default as many as it can bear."""
    return Merge(Krum(f))


@part("merge", "multi-krum")
def multi_krum(f: int | None = None, m: int | None = None) -> Merge:
    """The mean of the m messages with the closest neighbours, by default of all but f."""
    return Merge(MultiKrum(f, m))
