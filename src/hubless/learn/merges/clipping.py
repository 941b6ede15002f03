"""Merges that let no message pull further than a radius: norm clipping, centred clipping, clipped gossip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.points import Points, Sharing, middle
from hubless.learn.plan import Book
from hubless.learn.slots import Merge
from hubless.parts import part

PREVIOUS = "centred-clip"


def cut(lengths: Tensor, radius: Tensor | float) -> Tensor:
    """Factors in [0, 1] ``[M]`` that bring lengths down to a radius."""
    return torch.where(lengths > radius, radius / lengths.clamp_min(1e-300), torch.ones_like(lengths))


@dataclass(frozen=True)
class Clipped(Sharing):
    """``v + sum_i weight_i (x_i - v) min(1, radius / |x_i - v|)`` around a centre v.

    Norms go over all parameters jointly; BatchNorm's statistics become the median. Weights are the plan's.

    radius: in units of the parameters; None takes the median of the messages' distances
    """

    radius: float | None = None

    def __post_init__(self) -> None:
        if self.radius is not None and self.radius <= 0:
            raise ConfigError(f"merge.radius = {self.radius:g}: must be above 0")

    def within(self, distances: Tensor) -> Tensor | float:
        """The radius for messages at these distances ``[M]``."""
        return middle(distances) if self.radius is None else self.radius

    def pull(self, points: Points, distances: Tensor) -> Tensor:
        """How far v moves towards each message ``[M]``: all the way is 1."""
        return points.weights * cut(distances, self.within(distances))

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """They sum to 1 only if nothing was clipped."""
        return self.pull(points, points.squares.sqrt())


@dataclass(frozen=True)
class NormClip(Clipped):
    """The mean of updates that are cut to a norm (arXiv 1911.07963, without its noise).

    Of models, the update is the way from where the receiver's round began. A fixed norm is the source's; the median is
    that of FLAME (arXiv 2101.02281).
    """

    starts: ClassVar[bool] = True


@dataclass(frozen=True)
class CentredClip(Clipped):
    """Centred clipping (arXiv 2012.10333): around the previous answer, where honest messages are expected.

    For models the previous answer is the model with which the receiver's round began. Of everything else it is kept in
    the book, belongs to the aggregator role, and is 0 at first. The source fixes the radius; the median is ours.

    steps: how often v moves; more than one brings it to the honest messages where the previous answer is far from them
    """

    steps: int = 3

    starts: ClassVar[bool] = True
    role: ClassVar[tuple[str, ...]] = (PREVIOUS,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ConfigError(f"merge.steps = {self.steps}: must be 1 or more")

    def centre(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The previous answer."""
        previous: Message = super().centre(inbox, w, s, book, ctx) or book.get(PREVIOUS, {})
        return previous

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """Those after the last step."""
        shares = super().shares(points, book, ctx)
        for _ in range(1, self.steps):
            pull = self.pull(points, points.away(shares))
            shares = shares * (1 - pull.sum()) + pull
        return shares

    def finished(self, got: Message, points: Points, book: Book, ctx: Context) -> Message:
        """Remember the answer where the receiver's row does not."""
        if ctx.kind != "model":
            book[PREVIOUS] = {**book.get(PREVIOUS, {}), **{name: got[name] for name in points.names}}
        return got


@dataclass(frozen=True)
class ClippedGossip(Clipped):
    """Self-centred clipping (ClippedGossip, arXiv 2202.01545): around what the receiver says itself.

    radius: None takes the distance of the f + 1st farthest message, as the official code does with f = 1
    f:      hostile messages among M; None takes ``(M - 1) // 2``, which is the official 1 for two or three neighbours
    """

    f: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.f is not None and self.f < 0:
            raise ConfigError(f"merge.f = {self.f}: must be 0 or more")

    def check(self, inbox_size: int) -> None:
        """Somebody honest must be left to set the radius."""
        others = inbox_size - 1
        if self.radius is None and self.f and others <= self.f:
            raise ConfigError(
                f"merge.f = {self.f}: a peer that hears from {others} others can take fewer than those to be hostile"
            )

    def within(self, distances: Tensor) -> Tensor | float:
        """The radius; the receiver's own message, at distance 0, is one of M."""
        if self.radius is not None:
            return self.radius
        count = len(distances)
        f = (count - 1) // 2 if self.f is None else min(self.f, max(0, count - 2))
        return distances.sort().values[count - 1 - f]


@part("merge", "norm-clip")
def norm_clip(norm: float | None = None) -> Merge:
    """The mean of updates cut to a norm, by default to the median of their norms."""
    return Merge(NormClip(norm))


@part("merge", "centred-clip")
def centred_clip(radius: float | None = None, steps: int = 3) -> Merge:
    """The mean of what is cut to a radius around the previous answer, by default to the median distance."""
    return Merge(CentredClip(radius, steps))


@part("merge", "clipped-gossip")
def clipped_gossip(radius: float | None = None, f: int | None = None) -> Merge:
    """The mean of what is cut to a radius around the receiver's own; by default f hostile ones set no radius."""
    return Merge(ClippedGossip(radius, f))
