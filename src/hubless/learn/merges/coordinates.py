"""Robust merges that work coordinate by coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.ordered import WIDTH, ranks
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce
from hubless.parts import part


@dataclass(frozen=True)
class Median(Reduce):
    """The coordinate-wise median (arXiv 1803.01498, definition 1); weights only say who counts."""

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """For an even number of messages, the mean of the two in the middle."""
        return {name: _mean(inbox, name, _halves(len(inbox.weight(name)))) for name in inbox.names}


def _halves(count: int) -> Sequence[int]:
    return range((count - 1) // 2, count // 2 + 1)


@dataclass(frozen=True)
class TrimmedMean(Reduce):
    """The coordinate-wise mean without the smallest and largest values (arXiv 1803.01498, definition 2).

    Weights only say who counts.

    trim: share of the messages dropped at each end, in [0, 0.5)
    """

    trim: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"merge.trim = {self.trim}: must be in [0, 0.5)")

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """At least one message is dropped at each end when any trimming is asked and three or more are there."""
        return {name: _mean(inbox, name, self._kept(len(inbox.weight(name)))) for name in inbox.names}

    def _kept(self, count: int) -> Sequence[int]:
        cut = min(max(int(self.trim * count), 1 if self.trim else 0), (count - 1) // 2)
        return range(cut, count - cut)


def _mean(inbox: Inbox, name: str, kept: Sequence[int]) -> Tensor:
    """The mean of the values of some ranks, coordinate by coordinate and ``WIDTH`` of them at a time."""
    shape = inbox.shape(name)
    pieces = [
        torch.stack(ranks(inbox.columns(name, slice(first, first + WIDTH)), kept)).mean(0)
        for first in range(0, shape.numel(), WIDTH)
    ]
    return torch.cat(pieces).reshape(shape)


@part("merge", "median")
def median() -> Merge:
    """The coordinate-wise median of all that arrived."""
    return Merge(Median())


@part("merge", "trimmed-mean")
def trimmed_mean(trim: float = 0.2) -> Merge:
    """The coordinate-wise mean without a share at each end."""
    return Merge(TrimmedMean(trim))
