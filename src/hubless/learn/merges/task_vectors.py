"""The rules of model merging as merges of an inbox: task vectors of one round, from where it began.

What TIES and DARE do with models that were fine-tuned apart, they do here with what peers learned in a round. A message
that is a model is seen from where the receiver's round began, a delta is a task vector itself.

Rounds that begin from one model (star, rotating, sampled overlays) are the case of the sources. Under gossip a task
vector also holds how far its sender is from the receiver, and what DARE makes up for by size drives peers apart; there
``ties`` and ``task-arithmetic`` work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.model import Model
from hubless.learn.plan import DOWN, Book
from hubless.learn.slots import Merge, Reduce
from hubless.merging.rule import Rule
from hubless.merging.task_vectors import Dare, DareTies, Density, Rescale, Scale, TaskArithmetic, Ties
from hubless.parts import part


@dataclass(frozen=True)
class Tensorwise(Reduce):
    """A rule of ``hubless.merging`` for each parameter, by the plan's weights as shares that sum to 1.

    So scale 1 stands for the mean, where the sources, with a weight of 1 a model, sum M task vectors. What is no
    parameter (BatchNorm's statistics, a merge's own names) and what aggregators send down gets the weighted mean.
    """

    rule: Rule

    vectorised: ClassVar[bool] = False
    starts: ClassVar[bool] = True

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Parameter by parameter; groups whose weights sum to 0 are left out."""
        by_rule = [name for name in inbox.names if name in ctx.model.groups and ctx.phase != DOWN]
        rest = [{name: value for name, value in m.items() if name not in by_rule} for m in inbox.messages]
        found = WeightedMean()(Inbox(inbox.ids, inbox.weights, rest), w, s, book, ctx)
        for group in by_rule:
            if float(inbox.weight(group).sum()) > 0:
                found[group] = self._group(group, inbox, w, ctx)
        return {name: found[name] for name in inbox.names if name in found}

    def _group(self, group: str, inbox: Inbox, w: Tensor, ctx: Context) -> Tensor:
        """One group of the row ``[d]``."""
        whole = ctx.model.groups[group]
        weights = inbox.weight(group).double()
        sent = [(peer, m[group]) for peer, m in zip(inbox.ids, inbox.messages, strict=True) if group in m]
        start = (w if ctx.start is None else ctx.start)[whole] if ctx.kind == "model" else torch.zeros_like(w[whole])

        def merged(name: str, at: slice) -> Tensor:
            def draw(place: int, count: int) -> Tensor:
                return ctx.uniform(f"merge/{name}/{sent[place][0]}", (count,)).to(w.device)

            tensors = [value[at] for _, value in sent]
            return self.rule(tensors, weights=(weights / weights.sum()).tolist(), base=start[at], draw=draw)

        return torch.cat([merged(name, at) for name, at in parameters(ctx.model, whole)])


def parameters(model: Model, group: slice) -> Iterator[tuple[str, slice]]:
    """The parameters of a group of the row, each with its place in the group."""
    end = 0
    for name, size in zip(model.names, model.sizes, strict=True):
        first, end = end, end + size
        if group.start <= first < group.stop:
            yield name, slice(first - group.start, end - group.start)


@part("merge", "task-arithmetic")
def task_arithmetic(scale: Scale = 1.0) -> Merge:
    """Where the round began, and the mean of what peers learned since times a scale."""
    return Merge(Tensorwise(TaskArithmetic(scale)))


@part("merge", "ties")
def ties(density: Density = 0.2, scale: Scale = 1.0) -> Merge:
    """TIES: the largest changes of each peer, and of these the mean of those that agree on a sign."""
    return Merge(Tensorwise(Ties(density, scale)))


@part("merge", "dare")
def dare(density: Density = 0.5, scale: Scale = 1.0, rescale: Rescale = "density") -> Merge:
    """DARE: a random part of each peer's changes, made up for by its size."""
    return Merge(Tensorwise(Dare(density, scale, rescale)))


@part("merge", "dare-ties")
def dare_ties(density: Density = 0.5, scale: Scale = 1.0, rescale: Rescale = "density") -> Merge:
    """A random part of each peer's changes, and of it the mean of what agrees on a sign."""
    return Merge(Tensorwise(DareTies(density, scale, rescale)))
