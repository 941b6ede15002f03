"""Exchange of experts by their owners, and the warm-up in which similar experts pull each other along.

A peer says the shared weights and its own experts. What arrives is averaged where it is shared and taken over where it
is an expert, so that all who heard the same hold the same, bit for bit, and can blend experts without another message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hubless.errors import ConfigError, OwnershipError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.experts.owned import EXPERT, Experts
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import DOWN, Book
from hubless.learn.slots import Merge, Reduce

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards


@dataclass(frozen=True)
class ExpertExchange(Merge):
    """Shared weights are joined by ``reduce``, expert e is its owner's copy; then comes the blending, while it lasts.

    Whoever is absent leaves its experts at the values last heard, and has no part in the mean. Only what was heard in
    the round is blended; what is known of the absent may still be a donor.

    nodes:  peers that own the experts, equally many each
    alpha:  how far an expert moves at first; falls to 0 at round ``until``; 0 turns the blending off
    donors: how many similar experts it moves towards
    every:  rounds between two blendings
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    nodes: int = 1
    alpha: float = 0.0
    donors: int = 4
    every: int = 1
    until: int = 0

    vectorised: ClassVar[bool] = False  # peers say different names

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha:g}: must be in [0, 1]")

    def check(self, model: Model, shards: Shards) -> None:
        """The experts must divide evenly, and an expert needs so many others."""
        experts = Experts.of(model)
        experts.check(self.nodes)
        if self.alpha and not 0 < self.donors < experts.count:
            raise ConfigError(f"donors = {self.donors}: must be below the {experts.count} experts, and at least 1")

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """What the peer trains; an aggregator's broadcast is everything."""
        said = super().message(w, s, book, ctx)
        if ctx.phase == DOWN:
            return said
        experts = Experts.of(ctx.model)
        return {name: value for name, value in said.items() if experts.owner(name, self.nodes) in (None, ctx.peer)}

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """Raise OwnershipError for an expert that the sender does not own, MessageError for all else that is wrong."""
        super().accept(sender, m, ctx)
        if ctx.phase == DOWN:
            return
        experts = Experts.of(ctx.model)
        for name in m:
            if (owner := experts.owner(name, self.nodes)) not in (None, sender):
                raise OwnershipError(f"peer {sender} sent {name}, which peer {owner} owns", sender, name)

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Shared weights joined in the order of the senders, so that all get the same sum, and the experts beside."""
        order = sorted(range(len(inbox.ids)), key=lambda i: inbox.ids[i])
        ids, messages = tuple(inbox.ids[i] for i in order), [inbox.messages[i] for i in order]
        common = [{name: value for name, value in m.items() if not name.startswith(EXPERT)} for m in messages]
        got = self.reduce(Inbox(ids, inbox.weights[order], common), w, s, book, ctx)
        return got | {name: value for m in messages for name, value in m.items() if name.startswith(EXPERT)}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Take over what was heard, then blend the experts of it."""
        w, s = super().apply(w, s, book, got, ctx)
        alpha = self.strength(ctx.t)
        if ctx.phase == DOWN or not alpha:
            return w, s
        experts = Experts.of(ctx.model)
        moved = blend(experts.all(w), experts.blocks, alpha, self.donors)
        fresh = {name: moved[int(name.removeprefix(EXPERT))] for name in got if name.startswith(EXPERT)}
        return ctx.model.paste(w, fresh), s

    def strength(self, t: int) -> float:
        """Alpha after the exchange of round t."""
        return self.alpha * (1 - t / self.until) if t % self.every == 0 and t < self.until else 0.0


def blend(experts: Tensor, blocks: tuple[tuple[slice, slice], ...], alpha: float, donors: int) -> Tensor:
    """Every expert ``[E, size]`` moved by ``alpha`` towards the mean of the ``donors`` others most like it.

    Likeness is the cosine of the gate matrices, block by block; all weights of the block move, and all from the values
    before. ``blocks`` are the slices of an expert's weights in each block, and of its gate matrix there.
    """
    moved = experts.clone()
    for whole, gate in blocks:
        here = experts[:, whole]
        alike = likeness(experts[:, gate]).fill_diagonal_(-torch.inf)
        nearest = alike.topk(donors, dim=1).indices
        moved[:, whole] += alpha * (here[nearest].mean(1) - here)
    return moved


def likeness(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of ``[E, n]``: ``[E, E]``."""
    unit = functional.normalize(vectors, dim=1)
    return unit @ unit.T
