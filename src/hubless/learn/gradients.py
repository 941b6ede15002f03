"""Gradients: what a local step descends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.context import Batch, Context, State
from hubless.learn.slots import Gradient

if TYPE_CHECKING:
    from hubless.learn.model import Model


@dataclass(frozen=True)
class Plain(Gradient):
    """The gradient of the mean loss on the batch."""

    fusable: ClassVar[bool] = True


@dataclass(frozen=True)
class SAM(Gradient):
    """Sharpness-aware minimisation (arXiv 2010.01412, equation 2): the gradient at ``w + rho g / |g|``.

    rho: radius; the norm is over all of a peer's parameters, and both gradients are on the same batch
    """

    rho: float

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise ConfigError(f"gradient.rho = {self.rho}: must not be negative")

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Climb, then take the gradient there; the statistics of the second pass are dropped."""
        g, moved = ctx.grad(w, s, batch)
        climb = self.rho * g / g.norm().clamp_min(1e-12)
        return ctx.grad(w + climb, s, batch)[0], moved


@dataclass(frozen=True)
class Proximal(Gradient):
    """FedProx (arXiv 1812.06127, equation 2): the gradient plus ``mu (w - start)``."""

    mu: float

    def __post_init__(self) -> None:
        if self.mu < 0:
            raise ConfigError(f"gradient.mu = {self.mu}: must not be negative")

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Pull towards the parameters that the round began with."""
        g, s = ctx.grad(w, s, batch)
        assert ctx.start is not None
        return g + self.mu * (w - ctx.start), s


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on the inputs (arXiv 1706.06083), within a ball round each sample.

    eps:   radius, in units of the inputs
    size:  step size
    steps: ascent steps; one step of size eps without a random start is FGSM
    norm:  ``inf`` or ``2``
    start: whether to begin at a random point of the ball
    clip:  range of valid inputs, or None
    """

    eps: float
    size: float
    steps: int = 5
    norm: Literal["inf", "2"] = "inf"
    start: bool = True
    clip: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise ConfigError(f"attack.eps = {self.eps}: must not be negative")
        if self.steps > 0 and self.size <= 0:
            raise ConfigError(f"attack.size = {self.size}: must be positive when steps = {self.steps}")
        if self.norm not in ("inf", "2"):
            raise ConfigError(f"attack.norm = {self.norm!r}: must be 'inf' or '2'")

    def check(self, x: Tensor) -> None:
        """Raise ConfigError when inputs lie outside the range they would be clipped to."""
        if self.clip and len(x) and (x.min() < self.clip[0] or x.max() > self.clip[1]):
            low, high = float(x.min()), float(x.max())
            raise ConfigError(f"attack.clip = {self.clip}: but the inputs lie in [{low:g}, {high:g}]")

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> Batch:
        """The batch with adversarial inputs; parameters and statistics stay as they are."""
        shift = torch.zeros_like(batch.x)
        if self.start:
            shift = self.eps * (2 * ctx.uniform("adversary", tuple(batch.x.shape)) - 1)
            shift = self._project(shift)
        x = self._valid(batch.x + shift)
        for _ in range(self.steps):
            slope = ctx.input_grad(w, s, batch._replace(x=x))
            x = x + self.size * self._direction(slope)
            x = self._valid(batch.x + self._project(x - batch.x))
        return batch._replace(x=x)

    def _direction(self, slope: Tensor) -> Tensor:
        return slope.sign() if self.norm == "inf" else slope / _norm(slope).clamp_min(1e-12)

    def _project(self, shift: Tensor) -> Tensor:
        if self.norm == "inf":
            return shift.clamp(-self.eps, self.eps)
        factor: Tensor = (self.eps / _norm(shift).clamp_min(1e-12)).clamp(max=1.0)
        return shift * factor

    def _valid(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(*self.clip)


def FGSM(eps: float, clip: tuple[float, float] | None = (0.0, 1.0)) -> PGD:  # noqa: N802
    """The fast gradient sign method (arXiv 1412.6572): one step of the whole radius."""
    return PGD(eps, eps, steps=1, start=False, clip=clip)


def _norm(x: Tensor) -> Tensor:
    flat: Tensor = x.flatten(1).norm(dim=1)
    return flat.reshape(-1, *[1] * (x.dim() - 1))


@dataclass(frozen=True)
class Adversarial(Gradient):
    """The gradient on adversarial examples made against the peer's present parameters (arXiv 2208.03635)."""

    attack: PGD

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Attack the local model at this step, then descend on what was found."""
        return ctx.grad(w, s, self.attack(w, s, batch, ctx))


@dataclass(frozen=True)
class ControlVariate(Gradient):
    """SCAFFOLD's corrected gradient ``g - c_i + c`` (arXiv 1910.06378, algorithm 1, option II).

    ``control.own`` is the peer's variate, ``control.common`` the population's, which the merge ``Scaffold`` owns.
    """

    needs: ClassVar[tuple[str, ...]] = ("control.common",)

    def init(self, model: Model) -> State:
        """The peer's own variate ``[D]`` and its change in the last round, which it sends."""
        return {"control.own": torch.zeros(model.size), "control.change": torch.zeros(model.size)}

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Correct the drift of this peer."""
        g, s = ctx.grad(w, s, batch)
        return g - s["control.own"] + s["control.common"], s

    def end(self, w: Tensor, s: State, ctx: Context) -> State:
        """``c_i <- c_i - c + (start - w) / (K lr)``."""
        assert ctx.start is not None
        change = (ctx.start - w) / (ctx.steps * ctx.rate) - s["control.common"]
        return {**s, "control.own": s["control.own"] + change, "control.change": change}


@dataclass(frozen=True)
class RecursiveVR(Gradient):
    """FedAMD's miner (arXiv 2206.05891): ``g <- g + grad(w_k) - grad(w_{k-1})`` on the same batch.

    ``g`` starts at ``bullseye.mean``, the average of all peers' large-batch gradients, which the merge broadcasts.
    """

    needs: ClassVar[tuple[str, ...]] = ("bullseye.mean",)

    def begin(self, w: Tensor, s: State, ctx: Context) -> State:
        """Start at the average bullseye."""
        return {**s, "miner.g": s["bullseye.mean"], "miner.last": w}

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Move the direction by how the batch's gradient changed since the previous iterate."""
        now, moved = ctx.grad(w, s, batch)
        before, _ = ctx.grad(s["miner.last"], s, batch)
        g = s["miner.g"] + now - before
        return g, {**moved, "miner.g": g, "miner.last": w}

    def end(self, w: Tensor, s: State, ctx: Context) -> State:
        """Nothing of a miner lasts."""
        return {name: value for name, value in s.items() if not name.startswith("miner.")}
