"""Distillation: peers exchange predictions instead of parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Message, State
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce


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
