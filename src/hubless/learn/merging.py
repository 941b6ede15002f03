"""Communication by phases: a round that closes one, rounds that only communicate, and what a merge must repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.model import BUFFER
from hubless.learn.overlays import Gossip
from hubless.learn.plan import Book, Plan, Train, World
from hubless.learn.slots import Hook, Local, View

SETTLE = "settle"


@dataclass(frozen=True)
class Closing(Gossip):
    """A round of gossip after which peers settle: the role ``settle`` repairs what averaging leaves wrong (``Settle``).

    statistics: exchange once more after settling, so that statistics computed on one's own data become common
    """

    statistics: bool = False

    roles: ClassVar[tuple[str, ...]] = ("train", SETTLE)

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, exchange, settle, and exchange again if asked."""
        train, *exchanges = super().plan(t, world, book)
        everyone = torch.tensor(world.members, dtype=torch.int64)
        again = exchanges if self.statistics else []
        return (train, *exchanges, Train({SETTLE: everyone}), *again)


@dataclass(frozen=True)
class Untrained(Gossip):
    """Gossip without training."""

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Exchanges only."""
        return super().plan(t, world, book)[1:]


@dataclass(frozen=True)
class Settle(Local):
    """No learning: momentum starts from zero, and BatchNorm's statistics are computed anew for the present parameters.

    Average parameters do not have the average of the statistics (arXiv 2507.06542; official code: a short calibration
    pass). The new ones are means over ``steps`` mini-batches of a peer's own data, with the weights of an exponential
    average that is corrected for its start.

    steps: mini-batches
    batch: samples in a mini-batch; 0 means all of a peer's data
    reset: whether momentum starts from zero
    """

    batch: int = 32
    steps: int | None = 20
    reset: bool = True
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.steps is None or self.steps < 1:
            raise ConfigError(f"calibration = {self.steps}: must be at least 1 mini-batch")

    def rate(self, t: int) -> float:
        """Nothing is learned."""
        return 0.0

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Forget statistics, and the momentum if asked."""
        gone = [name for name in s if _momentum_of(ctx, name) is not None or (self.reset and name == "momentum")]
        return {**s, **{name: torch.zeros_like(s[name]) for name in gone}}

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Statistics move on; parameters stay."""
        return w, ctx.grad(w, s, batch)[1]

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Correct for the start at zero."""
        fresh = {}
        for name in s:
            if (momentum := _momentum_of(ctx, name)) is not None:
                fresh[name] = s[name] / (1 - (1 - momentum) ** ctx.steps)
        return w, {**s, **fresh}


def _momentum_of(ctx: Context, name: str) -> float | None:
    """The weight of a new batch in a BatchNorm statistic; None for any other entry."""
    layer, _, kind = name.removeprefix(BUFFER).rpartition(".")
    if name not in ctx.model.buffers or kind not in ("running_mean", "running_var"):
        return None
    module = ctx.model.module.get_submodule(layer)
    assert isinstance(module, nn.modules.batchnorm._NormBase)
    return module.momentum


@dataclass(frozen=True)
class Mergeability(Hook):
    """The metric ``mergeability``: accuracy of the average of all models minus the mean accuracy of the models.

    The average is made on a copy: no peer learns from it.
    """

    def round(self, view: View) -> Mapping[str, float]:
        """Wherever a round was evaluated."""
        merged, local = (view.metrics.get(name) for name in ("accuracy_mean_model", "accuracy"))
        return {} if merged is None or local is None else {"mergeability": merged - local}
