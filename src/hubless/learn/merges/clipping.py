"""Merges that let no message pull further than a radius: norm clipping, centred clipping, clipped gossip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.points import Points, Sharing, middle
from hubless.learn.slots import Book, Merge
from hubless.parts import part

PREVIOUS = "centred-clip"


@dataclass(frozen=True)
class Clipped(Sharing):
    """``v <- v + sum_i weight_i (x_i - v) min(1, radius / |x_i - v|)``, from the centre v, ``steps`` times.

    Norms go over all parameters jointly; BatchNorm's statistics move by the same factors. Weights are the plan's.

    radius: in units of the parameters; None takes the median distance of the messages, afresh in every step
    """

    radius: float | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        if self.radius is not None and self.radius <= 0:
            raise ConfigError(f"merge.radius = {self.radius:g}: must be above 0")
        if self.steps < 1:
            raise ConfigError(f"merge.steps = {self.steps}: must be 1 or more")

    def within(self, distances: Tensor) -> Tensor | float:
        """The radius for messages at these distances ``[M]``."""
        return middle(distances) if self.radius is None else self.radius

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """The shares after the last step; they sum to 1 only if nothing was clipped."""
        shares, distances = points.weights * 0, points.squares.sqrt()
        for step in range(self.steps):
            if step:
                distances = points.away(shares)
            pull = points.weights * (self.within(distances) / distances.clamp_min(1e-30)).clamp(max=1)
            shares = shares * (1 - pull.sum()) + pull
        return shares


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

    For models the previous answer is the model with which the receiver's round began; for everything else it is kept in
    the book, belongs to the aggregator role, and is 0 at first. The source fixes the radius; the median is ours.
    """

    starts: ClassVar[bool] = True
    role: ClassVar[tuple[str, ...]] = (PREVIOUS,)

    def centre(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The previous answer."""
        previous: Message = super().centre(inbox, w, s, book, ctx) or book.get(PREVIOUS, {})
        return previous

    def finished(self, got: Message, points: Points, book: Book, ctx: Context) -> Message:
        """Remember the answer where the receiver's row does not."""
        if ctx.kind != "model":
            book[PREVIOUS] = {**book.get(PREVIOUS, {}), **{name: got[name] for name in points.names}}
        return got


@dataclass(frozen=True)
class ClippedGossip(Clipped):
    """Self-centred clipping (ClippedGossip, arXiv 2202.01545): around what the receiver says itself.

    radius: None takes the distance to the f + 1st farthest message, as the official code does with f = 1
    f:      hostile messages among M; None takes ``(M - 1) // 2``, the source's 1 for two or three neighbours
    """

    f: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.f is not None and self.f < 0:
            raise ConfigError(f"merge.f = {self.f}: must be 0 or more")

    def check(self, inbox_size: int) -> None:
        """Somebody must be left to set the radius."""
        if self.radius is None and self.f is not None and 0 < inbox_size - 1 <= self.f:
            raise ConfigError(
                f"merge.f = {self.f}: a peer that hears from {inbox_size - 1} others can take at most"
                f" {inbox_size - 2} to be hostile"
            )

    def within(self, distances: Tensor) -> Tensor | float:
        """The radius; the receiver's own message, at distance 0, is one of M."""
        if self.radius is not None:
            return self.radius
        count = len(distances)
        most = (count - 1) // 2
        return distances.sort().values[count - 1 - (most if self.f is None else min(self.f, most))]


@part("merge", "norm-clip")
def norm_clip(norm: float | None = None) -> Merge:
    """The mean of updates cut to a norm, by default to the median of their norms."""
    return Merge(NormClip(norm))


@part("merge", "centred-clip")
def centred_clip(radius: float | None = None, steps: int = 1) -> Merge:
    """The mean of what is cut to a radius around the previous answer, by default to the median distance."""
    return Merge(CentredClip(radius, steps))


@part("merge", "clipped-gossip")
def clipped_gossip(radius: float | None = None, f: int | None = None) -> Merge:
    """The mean of what is cut to a radius around the receiver's own; by default f hostile ones set no radius."""
    return Merge(ClippedGossip(radius, f=f))
