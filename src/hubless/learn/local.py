"""Local objectives: how one peer improves its row on its own data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.gradients import Plain
from hubless.learn.slots import Gradient, Local

if TYPE_CHECKING:
    from hubless.learn.model import Model


@dataclass(frozen=True)
class _Steps(Local):
    """What SGD and Adam share.

    lr, decay: learning rate ``lr * decay**(t - 1)`` in round t
    steps:     mini-batches a round; or give ``epochs``, passes over a peer's own data (the last batch may be partial)
    batch:     samples in a mini-batch; 0 means all of a peer's data
    gradient:  what to descend on
    clip:      largest norm of a step's gradient; 0 means no limit
    weight_decay: factor on the parameters, added to the gradient
    """

    lr: float = 0.1
    steps: int | None = None
    epochs: int | None = None
    batch: int = 32
    gradient: Gradient = field(default_factory=Plain)
    decay: float = 1.0
    weight_decay: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(f"local: give either steps or epochs, not steps={self.steps}, epochs={self.epochs}")
        for name in ("steps", "epochs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"local.{name} = {value}: must be at least 1")
        if self.batch < 0 or self.clip < 0 or self.weight_decay < 0:
            raise ConfigError("local: batch, clip and weight_decay must not be negative")

    @property
    def vectorised(self) -> bool:
        """Whether a step may be mapped over peers."""
        return self.gradient.vectorised

    def rate(self, t: int) -> float:
        """Learning rate in round t (1-based)."""
        return self.lr * self.decay ** (t - 1)

    def init(self, model: Model) -> State:
        """The gradient's lasting state."""
        return self.gradient.init(model)

    def _descent(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        g, s = self.gradient(w, s, batch, ctx)
        if self.weight_decay:
            g = g + self.weight_decay * w
        if self.clip:
            g = g * torch.clamp(self.clip / g.norm().clamp_min(1e-12), max=1.0)
        return g, s


@dataclass(frozen=True)
class SGD(_Steps):
    """Stochastic gradient descent.

    momentum: heavy-ball factor: ``m <- momentum * m + g``, ``w <- w - lr * m``
    keep:     whether the momentum lasts from round to round; otherwise it starts at zero in each
    """

    momentum: float = 0.0
    keep: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"local.momentum = {self.momentum}: must be in [0, 1)")

    @property
    def fusable(self) -> bool:
        """Plain gradients and nothing else: kernels may update in place."""
        return self.gradient.fusable and not (self.momentum or self.weight_decay or self.clip)

    def init(self, model: Model) -> State:
        """Momentum ``[D]`` where it is kept."""
        own = {"momentum": torch.zeros(model.size)} if self.momentum and self.keep else {}
        return {**super().init(model), **own}

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Zero the momentum that is not kept."""
        if self.momentum and not self.keep:
            s = {**s, "momentum": torch.zeros_like(w)}
        return self.gradient.begin(w, s, ctx)

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """One descent step."""
        g, s = self._descent(w, s, batch, ctx)
        if self.momentum:
            g = self.momentum * s["momentum"] + g
            s = {**s, "momentum": g}
        return w - self.rate(ctx.t) * g, s

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Drop the momentum that is not kept."""
        s = self.gradient.end(w, s, ctx)
        if self.momentum and not self.keep:
            s = {name: value for name, value in s.items() if name != "momentum"}
        return w, s


@dataclass(frozen=True)
class Adam(_Steps):
    """Adam (arXiv 1412.6980, algorithm 1); weight decay is decoupled (AdamW, arXiv 1711.05101).

    keep: whether moments last from round to round; otherwise they start at zero in each
    """

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    keep: bool = False

    def _zeros(self, size: int) -> State:
        return {"adam.m": torch.zeros(size), "adam.v": torch.zeros(size), "adam.t": torch.zeros(())}

    def init(self, model: Model) -> State:
        """Both moments ``[D]`` and the step count, where they are kept."""
        return {**super().init(model), **(self._zeros(model.size) if self.keep else {})}

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Zero the moments that are not kept."""
        if not self.keep:
            zeros = torch.zeros_like(w)
            s = {**s, "adam.m": zeros, "adam.v": zeros, "adam.t": zeros.sum()}
        return self.gradient.begin(w, s, ctx)

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """One step with bias-corrected moments."""
        g, s = self.gradient(w, s, batch, ctx)
        if self.clip:
            g = g * torch.clamp(self.clip / g.norm().clamp_min(1e-12), max=1.0)
        t = s["adam.t"] + 1
        m = self.beta1 * s["adam.m"] + (1 - self.beta1) * g
        v = self.beta2 * s["adam.v"] + (1 - self.beta2) * g * g
        mean, variance = m / (1 - self.beta1**t), v / (1 - self.beta2**t)
        rate = self.rate(ctx.t)
        w = w - rate * (mean / (variance.sqrt() + self.epsilon) + self.weight_decay * w)
        return w, {**s, "adam.m": m, "adam.v": v, "adam.t": t}

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """Drop the moments that are not kept."""
        s = self.gradient.end(w, s, ctx)
        return w, s if self.keep else {name: v for name, v in s.items() if not name.startswith("adam.")}


@dataclass(frozen=True)
class Around(Local):
    """Another local objective, to which a subclass adds something before, in or after its steps."""

    inner: Local

    @property
    def batch(self) -> int:  # type: ignore[override]
        """The inner one's."""
        return self.inner.batch

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """The inner one's."""
        return self.inner.steps

    @property
    def epochs(self) -> int | None:  # type: ignore[override]
        """The inner one's."""
        return self.inner.epochs

    @property
    def vectorised(self) -> bool:
        """As the inner one."""
        return self.inner.vectorised

    @property
    def gradient(self) -> object:
        """The inner one's, if it has one; what it reads must be made by some part."""
        return getattr(self.inner, "gradient", None)

    def rate(self, t: int) -> float:
        """The inner one's."""
        return self.inner.rate(t)

    def init(self, model: Model) -> State:
        """The inner one's."""
        return self.inner.init(model)

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """The inner one's."""
        return self.inner.begin(w, s, ctx)

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """The inner one's."""
        return self.inner.step(w, s, batch, ctx)

    def end(self, w: Tensor, s: State, ctx: Context) -> tuple[Tensor, State]:
        """The inner one's."""
        return self.inner.end(w, s, ctx)
