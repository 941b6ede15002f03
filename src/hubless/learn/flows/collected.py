"""Training in isolation, and one collection: in the end one peer gets everybody's model, to use them as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.flows.flow import average
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import Book, Exchange, Overlay, Plan, Train, World
from hubless.learn.population import Population
from hubless.learn.slots import Merge, Reduce

COLLECT = "collect"
IDS = "ids"  # entry of the collector's book beside the models: whose they are


@dataclass(frozen=True)
class AloneThenCollected(Overlay):
    """Everyone trains and nobody sends; after round ``rounds`` all send their models to the first that answers."""

    rounds: int = 1

    phases = (COLLECT,)

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"rounds = {self.rounds}: must be at least 1")

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """One training step, and the collection in the last round."""
        peers = torch.tensor(world.members, dtype=torch.int64)
        train = Train({"train": peers})
        collector = next((peer for peer in world.members if world.ping(peer)), None)
        if t < self.rounds or collector is None:
            return (train,)
        there = torch.full_like(peers, collector)
        return train, Exchange(COLLECT, peers, there, torch.ones(len(peers), dtype=torch.float64))


@dataclass(frozen=True)
class Collection(Merge):
    """Peers say their averaged parameters, and nothing is merged: the receiver keeps every model beside its own."""

    reduce: Reduce = field(default_factory=WeightedMean)

    phases: ClassVar[tuple[str, ...] | None] = (COLLECT,)

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The averages, where there are any."""
        return super().message(average(w, s), s, book, ctx)

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """All models ``[M, D]`` by sender; what is not said of a model is as in one's own."""
        found = sorted(zip(inbox.ids, inbox.messages, strict=True), key=lambda one: one[0])
        rows = [ctx.model.paste(average(w, s), m) for _, m in found]
        return {IDS: torch.tensor([sender for sender, _ in found]), COLLECT: torch.stack(rows)}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """Remembered in ``book['collect']``; the peer stays what it is."""
        book[COLLECT] = dict(got)
        return w, s


def collected(population: Population) -> tuple[list[int], Tensor] | None:
    """Whose models were collected, and the models ``[M, D]``; None where there was no collection."""
    for book in population.books.values():
        if COLLECT in book:
            kept: Mapping[str, Tensor] = book[COLLECT]
            return kept[IDS].tolist(), kept[COLLECT]
    return None
