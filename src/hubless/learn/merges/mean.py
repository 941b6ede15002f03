"""The mean: what linear methods make of an inbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce
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
