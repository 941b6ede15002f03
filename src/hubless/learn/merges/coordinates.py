"""Robust merges that work coordinate by coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.slots import Book, Merge, Reduce
from hubless.parts import part


@dataclass(frozen=True)
class Median(Reduce):
    """The coordinate-wise median (arXiv 1803.01498, definition 1); weights only say who counts."""

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """For an even number of messages, the mean of the two in the middle."""
        return {name: _middle(inbox.stack(name)) for name in inbox.names}


NETWORK = 16  # up to so many values, compare-and-swap of whole rows beats sorting along a strided dimension


def _ordered(values: Tensor) -> list[Tensor]:
    """Values ``[M, ...]`` in ascending order, coordinate by coordinate, by odd-even transposition for small M."""
    if len(values) > NETWORK:
        return list(values.sort(dim=0).values.unbind(0))
    rows = list(values.unbind(0))
    for turn in range(len(rows)):
        for i in range(turn % 2, len(rows) - 1, 2):
            rows[i], rows[i + 1] = torch.minimum(rows[i], rows[i + 1]), torch.maximum(rows[i], rows[i + 1])
    return rows


def _middle(values: Tensor) -> Tensor:
    ordered = _ordered(values)
    m = len(values)
    return (ordered[(m - 1) // 2] + ordered[m // 2]) / 2


@dataclass(frozen=True)
class TrimmedMean(Reduce):
    """The coordinate-wise mean without the smallest and largest values (arXiv 1803.01498, definition 2).

    trim: share of the messages dropped at each end, in [0, 0.5)
    """

    trim: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.trim < 0.5:
            raise ConfigError(f"merge.trim = {self.trim}: must be in [0, 0.5)")

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """At least one message is dropped at each end when any trimming is asked and three or more are there."""
        found = {}
        for name in inbox.names:
            values = inbox.stack(name)
            m = len(values)
            cut = min(max(int(self.trim * m), 1 if self.trim else 0), (m - 1) // 2)
            kept = _ordered(values)[cut : m - cut]
            found[name] = torch.stack(kept).mean(0)
        return found


@part("merge", "median")
def median() -> Merge:
    """The coordinate-wise median of all that arrived."""
    return Merge(Median())


@part("merge", "trimmed-mean")
def trimmed_mean(trim: float = 0.2) -> Merge:
    """The coordinate-wise mean without a share at each end."""
    return Merge(TrimmedMean(trim))
