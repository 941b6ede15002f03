"""Selectors: an inbox in, a part of it out, before a costly merge looks at every message."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox
from hubless.learn.plan import Book

RECENT = "recent"  # entry of a book: parameters [R, D] that arrived last, the latest at the end


@dataclass(frozen=True)
class DistancePrioritiser:
    """The messages nearest to one's own model, and a few random ones of the others (Bristle, arXiv 2110.11006).

    Near ones are seldom poisoned, others may bring more news. When few models arrived, older ones are ranked with them,
    so that the nearest of few far ones do not count as near; an older one that is ranked among the nearest only takes
    up a place.

    alpha: nearest ones that are taken
    beta:  random ones of the rest
    least: models that are ranked at least, as far as there are older ones
    """

    alpha: int = 20
    beta: int = 5
    least: int = 20

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "least"):
            if getattr(self, name) < 0:
                raise ConfigError(f"merge.{name} = {getattr(self, name)}: must be 0 or more")
        if not self.alpha + self.beta:
            raise ConfigError("merge.alpha = 0: with beta = 0 no message is ever taken; give one of them")

    def __call__(self, inbox: Inbox, w: Tensor, book: Book, ctx: Context) -> Inbox:
        """The chosen messages by sender id; every message must hold the same groups of the model.

        Remembers in ``book['recent']`` what arrived, where that can ever matter.
        """
        messages = sorted(zip(inbox.ids, inbox.weights, inbox.messages, strict=True), key=lambda one: one[0])
        if not messages:
            return inbox
        parts = {name: part for name, part in ctx.model.groups.items() if name in messages[0][2]}
        rows = torch.stack([torch.cat([m[name] for name in parts]) for _, _, m in messages])
        own = torch.cat([w[part] for part in parts.values()])
        chosen = [messages[i] for i in self._ranked(rows, own, book, ctx)]
        ids, weights, kept = zip(*chosen, strict=True) if chosen else ((), (), ())
        return Inbox(tuple(ids), torch.stack(weights) if chosen else inbox.weights[:0], list(kept))

    def _ranked(self, rows: Tensor, own: Tensor, book: Book, ctx: Context) -> list[int]:
        """Positions of the chosen among ``rows [M, D]``, in order."""
        count = len(rows)
        older = self._older(rows, book)
        distances = torch.cat([(some - own).square().sum(1) for some in (rows, older)])
        order = torch.argsort(distances, stable=True).tolist()
        near = [place for place in order[: self.alpha] if place < count]
        rest = [place for place in order[self.alpha :] if place < count]
        drawn = ctx.uniform("explore", (count,)).tolist()
        return sorted(near + sorted(rest, key=drawn.__getitem__)[: self.beta])

    def _older(self, rows: Tensor, book: Book) -> Tensor:
        """Older models to rank with ``rows [M, D]``; these are then the latest that are remembered."""
        if self.alpha >= self.least:  # whenever older ones are ranked, all are among the nearest
            return rows[:0]
        known: Tensor = book.get(RECENT, rows[:0])
        book[RECENT] = torch.cat([known, rows])[-self.least :].clone()
        lacking = max(0, self.least - len(rows))
        return known[len(known) - min(lacking, len(known)) :]
