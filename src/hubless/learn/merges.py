"""Merges: what peers say to each other, and what an inbox amounts to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.slots import Book, Merge, Reduce
from hubless.parts import part


@dataclass(frozen=True)
class WeightedMean(Reduce):
    """The mean with the plan's weights, name by name, over those who sent that name."""

    linear: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Names whose weights sum to 0 are left out."""
        means = {}
        for name in inbox.names:
            weight = inbox.weight(name)
            if (total := weight.sum()) > 0:
                means[name] = torch.einsum("m,m...->...", (weight / total).to(torch.float32), inbox.stack(name))
        return means


@part("merge", "mean")
def mean(share: tuple[str, ...] | None = None) -> Merge:
    """The mean with the plan's weights (mixing weights, or data sizes)."""
    return Merge(WeightedMean(), share)


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


@dataclass(frozen=True)
class Distil(Merge):
    """Predictions on public inputs are averaged, and every peer takes steps towards the average.

    What crosses between peers is ``predictions [P, C]`` (logits), so their models may differ in shape.

    public: inputs ``[P, ...]`` that every peer holds
    steps:  gradient steps on the mean squared distance between own and average logits
    lr:     learning rate of these steps
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    public: Tensor | None = None
    steps: int = 5
    lr: float = 0.1

    vectorised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.public is None:
            raise ConfigError("merge.public: Distil needs the public inputs that every peer predicts on")

    def kind(self, phase: str) -> str:
        """Predictions, which may cross cohorts."""
        return "predictions"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Logits on the public inputs."""
        assert self.public is not None
        return {"predictions": ctx.model.forward(w, self.public, s).detach()}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Descend towards the average logits."""
        assert self.public is not None
        for _ in range(self.steps):
            leaf = w.detach().requires_grad_()
            gap = (ctx.model.forward(leaf, self.public, s) - got["predictions"]).square().mean()
            (g,) = torch.autograd.grad(gap, leaf)
            w = w - self.lr * g
        return w, s
