"""An aggregator whose model is not its row: what it keeps lies in its book, and moves with the role.

Down goes what the receiver is to start from, up comes its displacement after local training. The aggregator's own row
is a peer's like any other, so that all peers may differ and still be served by one model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.context import Context, Message, State
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce

if TYPE_CHECKING:
    from hubless.learn.population import Population

KEPT = "beside"  # entry of the aggregator's book


@dataclass(frozen=True)
class Beside(Merge):
    """What the aggregator keeps is a model of its own; what peers share of theirs starts from what it says to each.

    Subclasses say what it keeps at first (``fresh``), what it ``says`` to a peer, and what it has ``learned``.
    """

    reduce: Reduce = field(default_factory=WeightedMean)

    phases: ClassVar[tuple[str, ...] | None] = ("down", "up")
    role: ClassVar[tuple[str, ...]] = (KEPT,)
    beside: ClassVar[bool] = True
    per_target: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def fresh(self, start: Tensor, ctx: Context) -> dict[str, Any]:
        """What to keep where nobody handed it on; ``start [S]`` is the shared part of the aggregator's row."""
        raise NotImplementedError

    def says(self, kept: dict[str, Any], peer: int) -> Tensor:
        """What a peer is to start from ``[S]``."""
        raise NotImplementedError

    def learned(self, kept: dict[str, Any], got: Message, ctx: Context) -> dict[str, Any]:
        """What to keep after an inbox of displacements; ``kept`` itself stays as it is."""
        raise NotImplementedError

    def kind(self, phase: str) -> str:
        """The answers are displacements."""
        return "delta" if phase == "up" else "model"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Down: what the receiver is to start from. Up: how far it has come."""
        if ctx.phase == "up":
            assert ctx.start is not None
            return self._named(self._shared(w - ctx.start, ctx), ctx)
        if KEPT not in book:
            book[KEPT] = self.fresh(self._shared(w, ctx), ctx)
        return self._named(self.says(book[KEPT], ctx.to if ctx.to is not None else 0), ctx)

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """Exactly what is shared: a head that is personal is refused, and so is a peer that there is none of."""
        if foreign := sorted(m.keys() - set(self._groups(ctx))):
            raise MessageError(f"{foreign[0]} is not shared and must stay with its peer")
        if missing := [name for name in self._groups(ctx) if name not in m]:
            raise MessageError(f"{missing[0]} is missing")
        if not 0 <= sender < ctx.N:
            raise MessageError(f"there is no peer {sender}: ids go from 0 to {ctx.N - 1}")
        super().accept(sender, m, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """The aggregator learns, its row stays; everyone else starts from what it was told."""
        if ctx.phase != "up":
            return super().apply(w, s, book, got, ctx)
        kept = book.get(KEPT) or self.fresh(self._shared(w if ctx.start is None else ctx.start, ctx), ctx)
        book[KEPT] = self.learned(kept, got, ctx)
        return w, s

    def told(self, population: Population, peer: int) -> Tensor | None:
        """The row ``[D]`` that a peer would have if the aggregator answered now; None where nobody keeps anything."""
        kept = next((book[KEPT] for _, book in sorted(population.books.items()) if KEPT in book), None)
        if kept is None:
            return None
        cohort, w, _ = population.peer(peer)
        parts = [cohort.model.groups[name] for name in self.share or cohort.model.shared]
        said = torch.split(self.says(kept, peer), [part.stop - part.start for part in parts])
        w = w.clone()
        for part, value in zip(parts, said, strict=True):
            w[part] = value
        return w

    def _groups(self, ctx: Context) -> tuple[str, ...]:
        return self.share or ctx.model.shared

    def _shared(self, row: Tensor, ctx: Context) -> Tensor:
        return torch.cat([row[ctx.model.groups[name]] for name in self._groups(ctx)])

    def _named(self, value: Tensor, ctx: Context) -> Message:
        parts = [ctx.model.groups[name] for name in self._groups(ctx)]
        said = torch.split(value, [part.stop - part.start for part in parts])
        return dict(zip(self._groups(ctx), said, strict=True))


@dataclass(frozen=True)
class Common(Beside):
    """One start for all, which moves by the mean displacement: FedAvg of what is shared, beside the peers' rows."""

    def fresh(self, start: Tensor, ctx: Context) -> dict[str, Any]:
        """The start."""
        return {"mean": start}

    def says(self, kept: dict[str, Any], peer: int) -> Tensor:
        """The same to everyone."""
        mean: Tensor = kept["mean"]
        return mean

    def learned(self, kept: dict[str, Any], got: Message, ctx: Context) -> dict[str, Any]:
        """One step along what the reduce made of the inbox."""
        step = torch.cat([got[name] for name in self._groups(ctx)])
        return {"mean": kept["mean"] + step}
