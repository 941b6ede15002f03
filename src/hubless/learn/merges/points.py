"""Messages as points: whatever depends on their distances and angles alone follows from one Gram matrix.

The matrix costs one pass over the messages, by chunks of coordinates, in double precision; the answer, a combination of
the messages and a centre, costs another. What lies between works on ``[M, M]``, however large the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.plan import DOWN, Book
from hubless.learn.slots import Reduce

CHUNK = 1 << 18  # values of all messages together that are in hand at a time


class Points:
    """The M messages of an inbox around a centre.

    Coordinates are all names that everyone sent, jointly, but BatchNorm's statistics: their scale says nothing about
    who is hostile. They follow the parameters: the answer has the median over those who have a share in it, so that
    statistics out of all proportion, beside harmless parameters, do no harm.

    inbox:   messages, one a sender
    centre:  name -> where the origin is; 0 for names that it lacks
    aside:   names of such statistics
    weights: the plan's ``[M]``, which sum to 1
    """

    def __init__(self, inbox: Inbox, centre: Mapping[str, Tensor], aside: frozenset[str] = frozenset()) -> None:
        self.inbox = inbox
        self.centre = centre
        self.aside = aside
        self.count = len(inbox.weights)
        said = [name for name in inbox.names if len(inbox.weight(name)) == self.count]
        self.names = [name for name in said if name not in aside] or said
        weights = inbox.weights.to(inbox.columns(inbox.names[0], slice(0)).device, torch.float64)
        self.weights = weights / weights.sum()

    def _chunks(self, name: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Columns of a name ``[M, c]`` in double precision, and the centre there ``[c]``."""
        centre = self.centre[name].flatten() if name in self.centre else None
        width = max(1, CHUNK // self.count)
        for first in range(0, self.inbox.shape(name).numel(), width):
            at = slice(first, first + width)
            yield self.inbox.columns(name, at).double(), None if centre is None else centre[at].double()

    def _seen(self) -> Iterator[Tensor]:
        """All coordinates as seen from the centre, ``[M, c]`` at a time."""
        for name in self.names:
            for values, centre in self._chunks(name):
                yield values if centre is None else values - centre

    @cached_property
    def gram(self) -> Tensor:
        """Inner products ``[M, M]`` of the messages as seen from the centre."""
        total = self.weights.new_zeros(self.count, self.count)
        for seen in self._seen():
            total = total + seen @ seen.T
        return (total + total.T) / 2

    @cached_property
    def squares(self) -> Tensor:
        """Squared distances from the centre ``[M]``; alone they are M times cheaper than the Gram matrix."""
        if "gram" in self.__dict__:
            return self.gram.diagonal()
        total = self.weights.new_zeros(self.count)
        for seen in self._seen():
            total = total + seen.square().sum(1)
        return total

    @cached_property
    def apart(self) -> Tensor:
        """Squared distances between messages ``[M, M]``."""
        return (self.squares[:, None] + self.squares - 2 * self.gram).clamp_min(0)

    def away(self, shares: Tensor) -> Tensor:
        """Distances ``[M]`` of the messages from a combination of them and the centre."""
        seen = self.gram @ shares
        return (self.squares - 2 * seen + shares @ seen).clamp_min(0).sqrt()

    def combined(self, shares: Tensor) -> Message:
        """``sum_i shares_i x_i``, and what the shares ``[M]`` lack of 1 of the centre, name by name.

        A name that not everyone sent is the mean over those who sent it and have a share; without any it is left out.
        """
        rest = 1 - shares.sum()
        found: Message = {}
        for name in self.inbox.names:
            part, lacking = shares, rest
            if len(self.inbox.weight(name)) < self.count:
                part = shares[torch.tensor([name in m for m in self.inbox.messages])]
                if not float(part.sum()) > 0:
                    continue
                part, lacking = part / part.sum(), rest * 0
            if name in self.aside:
                found[name] = _median(self.inbox.stack(name), part > 0)
                continue
            pieces = [
                part @ values if centre is None else part @ values + lacking * centre
                for values, centre in self._chunks(name)
            ]
            found[name] = torch.cat(pieces).float().reshape(self.inbox.shape(name))
        return found


def _median(values: Tensor, taken: Tensor) -> Tensor:
    """The coordinate-wise median of the ``taken [M]`` of ``values [M, ...]``, or of all where none is taken."""
    taken = taken | ~taken.any()
    count = taken.sum()
    ordered = values.masked_fill(~taken.reshape(-1, *[1] * (values.dim() - 1)), torch.inf).sort(dim=0).values
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


@dataclass(frozen=True)
class Sharing(Reduce):
    """A reduce that gives each message a share in the answer, by how the messages lie to each other.

    Every kind of message will do: models, deltas, predictions. The centre is what the receiver says itself or, with
    ``starts``, where its round began. What aggregators send down is averaged as it is.
    """

    def __call__(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The combination of all that arrived."""
        points = Points(inbox, self.centre(inbox, w, s, book, ctx), frozenset(ctx.model.buffers))
        if ctx.phase == DOWN:
            return points.combined(points.weights)
        return self.finished(points.combined(self.shares(points, book, ctx)), points, book, ctx)

    def centre(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Where the origin is, by name; 0 for names that are not there."""
        return began(s, ctx) if self.starts else own(inbox, w, s, ctx)

    def shares(self, points: Points, book: Book, ctx: Context) -> Tensor:
        """A share for each message ``[M]``, in double precision; what they lack of 1 is the centre's."""
        raise NotImplementedError

    def finished(self, got: Message, points: Points, book: Book, ctx: Context) -> Message:
        """What is done with the combination in the end."""
        return got


def own(inbox: Inbox, w: Tensor, s: State, ctx: Context) -> Message:
    """What the receiver says itself; without such a message its row where models are sent, and 0 elsewhere."""
    if ctx.peer in inbox.ids:
        return inbox.messages[inbox.ids.index(int(ctx.peer))]
    return _whole(w, s, ctx)


def began(s: State, ctx: Context) -> Message:
    """Where the receiver's round began, before any training; 0 for deltas, which are as seen from there."""
    return {} if ctx.start is None else _whole(ctx.start, s, ctx)


def _whole(w: Tensor, s: State, ctx: Context) -> Message:
    if ctx.kind != "model":
        return {}
    groups = {name: w[part] for name, part in ctx.model.groups.items()}
    return groups | {name: s[name] for name in ctx.model.buffers}


def middle(values: Tensor) -> Tensor:
    """The median ``[]`` of ``[M]``; of an even number the lower one in the middle, so that half are not above it."""
    return values.sort().values[(len(values) - 1) // 2]
