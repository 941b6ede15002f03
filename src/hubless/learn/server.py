"""Server optimisers: the aggregator role descends along the mean update (arXiv 2003.00295, algorithm 2).

The role may stay with one peer or move; its moments are ``role`` entries of the book and move with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Context, Message, State
from hubless.learn.merges import WeightedMean
from hubless.learn.plan import Book
from hubless.learn.slots import Merge, Reduce
from hubless.parts import part

if TYPE_CHECKING:
    from hubless.learn.model import Model

Rule = Literal["sgd", "momentum", "adam", "yogi", "adagrad"]


@dataclass(frozen=True)
class ServerOpt(Merge):
    """Peers send their updates ``D_i = w_i - start``; the role applies an optimiser to their mean D.

    sgd:      ``w <- w + lr D``
    momentum: ``m <- beta1 m + D``, ``w <- w + lr m``
    adam:     ``m <- beta1 m + (1 - beta1) D``, ``v <- beta2 v + (1 - beta2) D^2``, ``w <- w + lr m / (sqrt(v) + tau)``
    yogi:     ``v <- v - (1 - beta2) D^2 sign(v - D^2)``; adagrad: ``v <- v + D^2``; both else like adam
    ``v`` starts at ``tau^2``; there is no bias correction, as in the source.
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    rule: Rule = "sgd"
    lr: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    vectorised: ClassVar[bool] = True
    phases: ClassVar[tuple[str, ...] | None] = ("down", "up")
    role: ClassVar[tuple[str, ...]] = ("server.m", "server.v")

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.tau <= 0:
            raise ConfigError(f"server: lr = {self.lr} and tau = {self.tau} must be positive")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ConfigError(f"server: beta1 = {self.beta1} and beta2 = {self.beta2} must be in [0, 1)")

    def kind(self, phase: str) -> str:
        """The broadcast is a model, the answers are deltas."""
        return "delta" if phase == "up" else "model"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """The change since this round's start on the way up, the model on the way down."""
        if ctx.phase == "up":
            assert ctx.start is not None
            w = w - ctx.start
        return super().message(w, s, book, ctx)

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """One optimiser step of the role, or taking over the broadcast."""
        if ctx.phase != "up":
            return super().apply(w, s, book, got, ctx)
        base = w if ctx.start is None else ctx.start
        step = self.lr * self._direction(ctx.model.paste(torch.zeros_like(w), got), book)
        groups = ctx.model.groups
        moved = {name: (base + step)[groups[name]] for name in got if name in groups}
        return ctx.model.paste(w, moved), {**s, **ctx.model.statistics(got)}

    def _direction(self, delta: Tensor, book: Book) -> Tensor:
        if self.rule == "sgd":
            return delta
        m: Tensor = book.get("server.m", torch.zeros_like(delta))
        m = self.beta1 * m + (delta if self.rule == "momentum" else (1 - self.beta1) * delta)
        book["server.m"] = m
        if self.rule == "momentum":
            return m
        v: Tensor = book.get("server.v", torch.full_like(delta, self.tau**2))
        square = delta * delta
        if self.rule == "adam":
            v = self.beta2 * v + (1 - self.beta2) * square
        elif self.rule == "yogi":
            v = v - (1 - self.beta2) * square * torch.sign(v - square)
        else:
            v = v + square
        book["server.v"] = v
        return m / (v.sqrt() + self.tau)


@part("merge", "server")
def server(rule: Rule = "sgd", lr: float = 1.0) -> Merge:
    """A server optimiser on the mean update: sgd, momentum, adam, yogi, adagrad."""
    return ServerOpt(rule=rule, lr=lr)


@dataclass(frozen=True)
class Scaffold(Merge):
    """SCAFFOLD's server side (arXiv 1910.06378, algorithm 1): updates and control variates travel together.

    The role keeps ``w <- w + lr mean D_i`` and ``c <- c + (senders / N) mean (c_i's change)``.
    Use it with ``SGD(gradient=ControlVariate())`` and a star-like overlay.
    """

    reduce: Reduce = field(default_factory=WeightedMean)
    lr: float = 1.0

    vectorised: ClassVar[bool] = True
    phases: ClassVar[tuple[str, ...] | None] = ("down", "up")
    common: ClassVar[tuple[str, ...]] = ("control.common",)
    needs: ClassVar[tuple[str, ...]] = ("control.change",)

    def init(self, model: Model) -> State:
        """The population's variate ``[D]``, alike everywhere."""
        return {"control.common": torch.zeros(model.size)}

    def kind(self, phase: str) -> str:
        """The broadcast is a model, the answers are deltas."""
        return "delta" if phase == "up" else "model"

    def message(self, w: Tensor, s: State, book: Book, ctx: Context) -> Message:
        """Up: both changes. Down: the model and the common variate."""
        shared = slice(ctx.model.shared_size)
        if ctx.phase == "up":
            assert ctx.start is not None
            return {**super().message(w - ctx.start, s, book, ctx), "control": s["control.change"][..., shared]}
        return {**super().message(w, s, book, ctx), "control": s["control.common"][..., shared]}

    def apply(self, w: Tensor, s: State, book: Book, got: Message, ctx: Context) -> tuple[Tensor, State]:
        """The role moves both; everyone else takes both over."""
        s = {**s, **ctx.model.statistics(got)}
        shared = ctx.model.shared_size
        if ctx.phase != "up":
            c = got["control"]
            if shared < ctx.model.size:  # what is personal has no drift to correct
                c = torch.cat([c, s["control.own"][shared:]])
            return ctx.model.paste(w, got), {**s, "control.common": c}
        base = w if ctx.start is None else torch.cat([ctx.start[:shared], w[shared:]])
        delta = ctx.model.paste(torch.zeros_like(w), got)
        c = s["control.common"]
        moved = c[:shared] + ctx.counts["control"] / ctx.N * got["control"]
        return base + self.lr * delta, {**s, "control.common": torch.cat([moved, c[shared:]])}
