"""Unconstrained merging: fusion across architectures, then models of one architecture layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.fusion.oneshot import BASE, EXPERTS, PUBLISH, exchange
from hubless.learn.merges.mean import WeightedMean
from hubless.learn.plan import Book, Exchange, Overlay, Plan, Train, World
from hubless.learn.slots import Merge, Reduce

if TYPE_CHECKING:
    from hubless.learn.model import Model
    from hubless.learn.workload import Shards

FUSE = "fuse"  # exchange: predictions of sources go to pivots
MORE = "more"  # role: the pivot trains on, on its own data


@dataclass(frozen=True)
class Fusing(Overlay):
    """Pivots and sources train apart; then sources send predictions to pivots, and pivots their models to the first.

    pivots:  peers of one architecture; the first trains the common base
    sources: peers of other architectures; source i sends to pivot i, counted round
    more:    in place of fusion, the first pivot trains on, on its own data
    """

    pivots: tuple[int, ...]
    sources: tuple[int, ...]
    more: bool = False

    phases: ClassVar[tuple[str, ...]] = (BASE, FUSE, EXPERTS)
    roles: ClassVar[tuple[str, ...]] = (PUBLISH, "train", MORE)

    def check(self, n: int, seed: int = 0) -> None:
        """Every peer is a pivot or a source."""
        if sorted(self.pivots + self.sources) != list(range(n)) or not self.pivots or not self.sources:
            raise ConfigError(f"peers = {n}: each must be a pivot {self.pivots} or a source {self.sources}")

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, the base to all pivots, predictions, and pivots to the first one."""
        pivots, sources = (torch.tensor(sorted(set(ids) & set(world.members)), dtype=torch.int64) for ids in (
            self.pivots, self.sources))  # fmt: skip
        steps: list[Train | Exchange] = [Train({PUBLISH: pivots[:1] if t == 1 else pivots[:0], "train": sources})]
        first = pivots[:1].expand(len(pivots))
        if len(self.pivots) > 1:
            steps.append(exchange(BASE, first, pivots))
        if self.more:
            steps.append(Train({MORE: pivots[:1]}))
        elif len(pivots):
            to = pivots[torch.arange(len(sources)) % len(pivots)]
            order = torch.argsort(to, stable=True)
            steps.append(exchange(FUSE, sources[order], to[order]))
        if len(self.pivots) > 1:
            steps.append(exchange(EXPERTS, pivots, first))
        return tuple(steps)

    def outcome(self, t: int, book: Book) -> list[int] | None:
        """The first pivot."""
        return [self.pivots[0]]


@dataclass(frozen=True)
class ByPhase(Merge):
    """One merge an exchange: fusion across architectures, then models of one architecture.

    parts: the merge of each exchange
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    parts: Mapping[str, Merge] = field(default_factory=dict)

    within: ClassVar[tuple[str, ...]] = (BASE, EXPERTS)
    vectorised: ClassVar[bool] = False

    @property
    def phases(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those that it has a merge for."""
        return tuple(self.parts)

    def check(self, model: Model, shards: Shards) -> None:
        """Each merge's own checks."""
        for merge in {id(merge): merge for merge in self.parts.values()}.values():
            merge.check(model, shards)

    def kind(self, phase: str) -> str:
        """That of the exchange's merge."""
        return self.parts[phase].kind(phase)

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """That of the exchange's merge."""
        return self.parts[ctx.phase].message(w, s, book, ctx)

    def accept(self, sender: int, m: Message, ctx: Context) -> None:
        """As the exchange's merge does."""
        self.parts[ctx.phase].accept(sender, m, ctx)

    def join(self, inbox: Inbox, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """As the exchange's merge does."""
        return self.parts[ctx.phase].join(inbox, w, s, book, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """As the exchange's merge does."""
        return self.parts[ctx.phase].apply(w, s, book, got, ctx)
