"""All-reduce on a ring: the exact mean of all rows for two rows of traffic a peer, whatever their number.

Rows are cut in as many pieces as there are peers. In ``scatter`` every piece goes round once and each peer adds its own
values; in ``gather`` the finished pieces go round once more (Patarasuk and Yuan 2009, section 3). A piece travels as
the mean of the peers it has met, with their number, so that after lost messages every peer still holds means of peers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.plan import Book, Exchange, Overlay, Plan, Train, World
from hubless.learn.slots import Merge, Reduce

SCATTER, GATHER = "scatter", "gather"
RING = "ring"


@dataclass(frozen=True)
class AllReduce(Overlay):
    """Everyone trains, then the ring of those who answer averages its rows; ``RingMean`` is the merge for it.

    settle: role of a training step afterwards; empty for none
    """

    settle: str = ""

    phases: ClassVar[tuple[str, ...]] = (SCATTER, GATHER)
    in_parts: ClassVar[bool] = True

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """Training, and settling if asked."""
        return ("train", self.settle) if self.settle else ("train",)

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, n - 1 exchanges of partial means, n - 1 of finished ones."""
        everyone = torch.tensor(world.members, dtype=torch.int64)
        ring = torch.tensor([peer for peer in world.members if world.ping(peer)], dtype=torch.int64)
        steps = range(len(ring) - 1)
        turns = [(SCATTER, -step) for step in steps] + [(GATHER, 1 - step) for step in steps]
        after = (Train({self.settle: everyone}),) if self.settle else ()
        return (Train({"train": everyone}), *(_turn(name, ring, shift) for name, shift in turns), *after)


def _turn(name: str, ring: Tensor, shift: int) -> Exchange:
    """Everyone sends one piece to the next on the ring: the one that ``shift`` says, counted from its own place."""
    n = len(ring)
    to = torch.roll(ring, -1)
    order = torch.argsort(to)
    part = (torch.arange(n) + shift) % n
    return Exchange(name, ring[order], to[order], torch.ones(n, dtype=torch.float64), part=part[order], parts=n)


@dataclass(frozen=True)
class RingMean(Merge):
    """The mean over a ring's exchanges, and the usual mean over all others; the ring leaves buffers alone."""

    reduce: Reduce = field(default_factory=WeightedMean)

    in_parts: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """``piece [L]``, a mean; ``met [1]``, of how many; ``part [2]``, which piece of how many."""
        if ctx.phase not in (SCATTER, GATHER):
            return super().message(w, s, book, ctx)
        part, parts = ctx.part
        met = _met(book, ctx.t).get(part, 1)
        return {
            "piece": w[_piece(part, parts, ctx.model.shared_size)],
            "met": torch.tensor([met]),
            "part": torch.tensor([part, parts]),
        }

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """A piece must be one that the receiver's row has."""
        super().accept(sender, m, ctx)
        if ctx.phase in (SCATTER, GATHER):
            if [tuple(m[name].shape) for name in ("met", "part") if name in m] != [(1,), (2,)]:
                raise MessageError("a ring's message needs met [1] and part [2]")
            part, parts = m["part"].tolist()
            whole = ctx.model.shared_size
            fits = 0 <= part < parts <= ctx.N and 1 <= int(m["met"]) <= parts
            size = len(range(whole)[_piece(part, parts, whole)]) if fits else -1
            if "piece" not in m or tuple(m["piece"].shape) != (size,):
                raise MessageError(f"piece {part} of {parts} does not fit a row of {whole}")

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """On a ring, the one message there is."""
        if ctx.phase in (SCATTER, GATHER):
            return inbox.messages[0]
        return super().join(inbox, w, s, book, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Add oneself to a partial mean; take over a finished one."""
        if ctx.phase not in (SCATTER, GATHER):
            return super().apply(w, s, book, got, ctx)
        (part, parts), met = got["part"].tolist(), int(got["met"])
        where = _piece(part, parts, ctx.model.shared_size)
        known = _met(book, ctx.t)
        w = w.clone()
        if ctx.phase == SCATTER:
            known[part] = met + 1
            w[where] = (w[where] + met * got["piece"]) / (met + 1)
        elif met >= known.get(part, 1):
            known[part] = met
            w[where] = got["piece"]
        return w, s


def _piece(part: int, parts: int, size: int) -> slice:
    return slice(part * size // parts, (part + 1) * size // parts)


def _met(book: Book, t: int) -> dict[int, int]:
    """How many peers each piece of the row is a mean of, in round t."""
    ring: Book = book.setdefault(RING, {})
    if ring.get("round") != t:
        ring.clear()
        ring |= {"round": t, "met": {}}
    met: dict[int, int] = ring.setdefault("met", {})
    return met
