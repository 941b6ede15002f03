"""Anchor sampling (FedAMD, arXiv 2206.05891): some participants aim, the others walk.

Anchors refresh their ``bullseye``, a large-batch gradient; miners take recursive variance-reduced steps that start at
the mean bullseye of the whole population. Only that mean travels: every peer keeps its own bullseye and an anchor says
by how much it changed, so that nobody holds a cache of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Batch, Context, Message, State
from hubless.learn.evaluate import mean_row
from hubless.learn.merges import WeightedMean
from hubless.learn.overlays import Star
from hubless.learn.plan import Book, Exchange, Overlay, Plan, Train, World
from hubless.learn.slots import Hook, Local, Merge, Reduce, View

if TYPE_CHECKING:
    from hubless.learn.model import Model

ROLES = ("anchor", "miner")


@dataclass(frozen=True)
class Bullseye(Local):
    """An anchor's work: one gradient at the model received, and no step.

    batch: samples in it; 0 takes all of a peer's data
    """

    batch: int = 0

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """One batch of the given size."""
        return 1 if self.batch else None

    @property
    def epochs(self) -> int | None:  # type: ignore[override]
        """Or all data once, however much each peer has."""
        return None if self.batch else 1

    def rate(self, t: int) -> float:
        """Nothing moves."""
        return 0.0

    def init(self, model: Model) -> State:
        """The peer's bullseye ``[D]`` and its last change, which it sends."""
        return {"bullseye.own": torch.zeros(model.size), "bullseye.change": torch.zeros(model.size)}

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """``v_i <- grad f_i(x; B')``."""
        g, s = ctx.grad(w, s, batch)
        return w, {**s, "bullseye.own": g, "bullseye.change": g - s["bullseye.own"]}


@dataclass(frozen=True)
class AnchorMiner(Merge):
    """Down: the model and the mean bullseye. Up: a miner's update, or the change of an anchor's bullseye.

    ``x <- x + lr mean over miners of (w_i - x)`` and ``v <- v + (anchors / N) mean over anchors of v_i's change``, so
    that v stays the mean over all N peers, stale ones included. Without a miner x stays. A lost change is missing from
    v for good. Use it with ``Primed``, roles of ``ROLES``, and weights alike.
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    lr: float = 1.0

    phases: ClassVar[tuple[str, ...] | None] = ("down", "prime", "up")
    common: ClassVar[tuple[str, ...]] = ("bullseye.mean",)

    def init(self, model: Model) -> State:
        """The mean bullseye ``[D]``, alike everywhere. Raises ConfigError for a model that is not deterministic."""
        if model.buffers:
            raise ConfigError(
                f"model: {model.name} has BatchNorm or dropout; both gradients of a miner's step need the same function"
            )
        return {"bullseye.mean": torch.zeros(model.size)}

    def kind(self, phase: str) -> str:
        """The broadcast is a model, the answers are changes."""
        return "model" if phase == "down" else "delta"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """By role: anchors send no model, miners no gradient."""
        shared = slice(ctx.model.shared_size)
        if ctx.phase == "down":
            return {**super().message(w, s, book, ctx), "bullseye": s["bullseye.mean"][..., shared]}
        if ctx.role == "anchor":
            return {"bullseye": s["bullseye.change"][..., shared]}
        assert ctx.start is not None
        return super().message(w - ctx.start, s, book, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """The role moves both; everyone else takes both over. Raises ConfigError when the first mean is incomplete."""
        shared = ctx.model.shared_size
        if ctx.phase == "down":
            aim = got["bullseye"]
            if shared < ctx.model.size:  # of what is personal the peer's own bullseye is the mean
                aim = torch.cat([aim, s["bullseye.own"][shared:]])
            return ctx.model.paste(w, got), {**s, "bullseye.mean": aim}
        if "bullseye" in got:
            aimed = ctx.counts["bullseye"]
            if ctx.phase == "prime" and aimed < ctx.N:
                raise ConfigError(
                    f"faults: {ctx.N - aimed} of {ctx.N} peers gave no bullseye at the initial model, and their mean "
                    "begins with everyone's; let faults begin at round 2"
                )
            v = s["bullseye.mean"]
            s = {**s, "bullseye.mean": torch.cat([v[:shared] + (aimed / ctx.N) * got["bullseye"], v[shared:]])}
        base = w if ctx.start is None else torch.cat([ctx.start[:shared], w[shared:]])
        return base + self.lr * ctx.model.paste(torch.zeros_like(w), got), s


@dataclass(frozen=True)
class Coin:
    """Every participant is an anchor with probability p, else a miner."""

    p: float
    names: tuple[str, ...] = ROLES

    def draw(self, t: int, peers: Tensor, seed: int) -> Mapping[str, Tensor]:
        """Independent draws for each peer and round."""
        toss = keys.uniform(keys.fold(keys.fold(seed, "role", t), peers), ())
        return {"anchor": peers[toss < self.p], "miner": peers[toss >= self.p]}


@dataclass(frozen=True)
class Turns:
    """One round of anchors only, then ``period - 1`` rounds of miners only."""

    period: int
    names: tuple[str, ...] = ROLES

    def __post_init__(self) -> None:
        if self.period < 2:
            raise ConfigError(f"period = {self.period}: must be at least 2, so that there are rounds of miners")

    def draw(self, t: int, peers: Tensor, seed: int) -> Mapping[str, Tensor]:
        """Anchors in rounds 1, 1 + period, ..."""
        return {"miner" if (t - 1) % self.period else "anchor": peers}


@dataclass(frozen=True)
class Primed(Overlay):
    """A star whose first round begins with a bullseye of every peer at the initial model."""

    star: Star

    phases: ClassVar[tuple[str, ...]] = ("down", "prime", "up")
    roles: ClassVar[tuple[str, ...]] = ROLES
    shared: ClassVar[bool] = True

    def check(self, n: int, seed: int = 0) -> None:
        """The star must work."""
        self.star.check(n, seed)

    def init(self, world: World) -> Book:
        """The star's."""
        return self.star.init(world)

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """The star's; in round 1, down to all, aim, and up from all come before it."""
        plan = self.star.plan(t, world, book)
        if t > 1:
            return plan
        peers = torch.tensor(world.members, dtype=torch.int64)
        hub, alike = torch.full_like(peers, book["aggregator"]), torch.ones(len(peers), dtype=torch.float64)
        return (
            Exchange("down", hub, peers, alike),
            Train({"anchor": peers}, after="down"),
            Exchange("prime", peers, hub, alike, collect=True),
            *plan,
        )


@dataclass(frozen=True)
class FullGradient(Hook):
    """What the theory speaks of: the objective ``f = (1/N) sum_i f_i`` on all training data and ``|grad f|``.

    Measured at the average model, every so many rounds and in each of the ``last`` ones.
    """

    every: int = 10
    last: int = 10

    def round(self, view: View) -> Mapping[str, float]:
        """``objective`` and ``grad_norm``."""
        if view.t % self.every and view.rounds - view.t >= self.last:
            return {}
        (cohort,) = view.population.cohorts
        row, state = mean_row(cohort, cohort.ids)
        s = {name: value[0] for name, value in state.items()}
        w = row[0].detach().requires_grad_()
        total, g = 0.0, torch.zeros_like(row[0])
        for peer in range(view.population.n):
            x, y = view.shards.own(peer)
            if len(y):
                loss = cohort.model.loss(cohort.model.forward(w, x, s), y).mean()
                total += float(loss.detach())
                g += torch.autograd.grad(loss, w)[0]
        return {"objective": total / view.population.n, "grad_norm": float(g.norm()) / view.population.n}
