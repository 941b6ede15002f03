"""Flow matching: a velocity field between data and noise, learned from straight paths and followed back to sample.

Time runs from data to noise: ``x_t = (1 - t) x0 + t eps`` with ``eps ~ N(0, I)``, so that the velocity of a path is
``eps - x0`` (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003). A network is shown a place and its time as
one row: ``x_t [d]``, then the time and waves of it. Clean samples are such rows at time 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Batch, Context, State
from hubless.learn.local import Adam, Around
from hubless.learn.model import Model
from hubless.learn.slots import Gradient

WAVES = 6
TIME = 1 + 2 * WAVES  # numbers by which a network knows the time
AVERAGE, WEIGHT = "average", "average.weight"  # entries of a peer's state

Velocity = Callable[[Tensor, float], Tensor]  # places [M, d] and a time to velocities [M, d]


def placed(x: Tensor, t: Tensor) -> Tensor:
    """Rows ``[..., d + TIME]`` that say where and when: places ``x [..., d]`` and times ``t [...]`` in [0, 1]."""
    turns = t[..., None] * (math.pi * 2.0 ** torch.arange(WAVES, device=t.device))
    return torch.cat([x, t[..., None], torch.sin(turns), torch.cos(turns)], dim=-1)


def placed_at(x: Tensor, t: float) -> Tensor:
    """The same for one time. Raises ConfigError when it is not in [0, 1]."""
    if not 0 <= t <= 1:
        raise ConfigError(f"t = {t:g}: must be in [0, 1]; 0 is data, 1 is noise")
    return placed(x, torch.full(x.shape[:-1], t))


def between(x0: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Where the paths from data ``x0 [..., d]`` to noise ``eps [..., d]`` are at ``t [...]``, and their velocities."""
    return (1 - t[..., None]) * x0 + t[..., None] * eps, eps - x0


def drawn(clean: Tensor, key: keys.Key) -> tuple[Tensor, Tensor]:
    """Clean rows ``[B, d + TIME]`` moved to random times of random paths, and the velocities there ``[B, d]``."""
    x0 = clean[..., :-TIME]
    t = keys.uniform(keys.fold(key, "time"), (len(x0),), x0.device)
    x, u = between(x0, keys.normal(keys.fold(key, "noise"), tuple(x0.shape), x0.device), t)
    return placed(x, t), u


def flow_data(data: Dataset) -> Dataset:
    """A set of vectors ``[M, d]`` as one of flows: clean rows, and the vectors themselves for targets.

    Test samples are moved to times of paths that are always the same; their targets are the velocities there. Raises
    ConfigError for inputs that are no vectors.
    """
    if data.task == "language" or len(data.shape) != 1:
        raise ConfigError(f"flow: {data.name} has inputs of shape {data.shape}, a flow needs vectors; project them")
    rows, test = (placed_at(torch.from_numpy(part), 0.0) for part in (data.x, data.test_x))
    test, u = drawn(test, keys.fold(0, "flow test"))
    return Dataset(f"flow of {data.name}", rows.numpy(), data.x, test.numpy(), u.numpy(), (), "regression")


@dataclass(frozen=True)
class FlowMatching(Gradient):
    """The gradient of ``|v(x_t, t) - (eps - x0)|^2``, with a time and noise of its own for every sample of a step."""

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """The batch are clean rows; its targets are not looked at."""
        return ctx.grad(w, s, Batch(*drawn(batch.x, ctx.key), batch.weight))


@dataclass(frozen=True)
class Noised(Gradient):
    """The plain gradient where clean rows are moved to random times of random paths: what they are stays the same."""

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Labels are kept."""
        return ctx.grad(w, s, batch._replace(x=drawn(batch.x, ctx.key)[0]))


@dataclass(frozen=True)
class Fading(Adam):
    """Adam whose learning rate falls linearly: ``lr (1 - (t - 1) / rounds)`` in round t."""

    rounds: int = 1

    def rate(self, t: int) -> float:
        """Learning rate in round t (1-based)."""
        return self.lr * max(0.0, 1 - (t - 1) / self.rounds)


@dataclass(frozen=True)
class Averaged(Around):
    """Another local objective, and beside its parameters an exponential average of them over all steps.

    Training does not look at the average; networks that sample are better for it. It is corrected for its start, as
    Adam's moments are.

    beta: weight of the average so far at each step
    """

    beta: float = 0.99

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise ConfigError(f"ema = {self.beta:g}: must be in [0, 1)")

    def init(self, model: Model) -> State:
        """The average ``[D]`` of nothing, and its weight."""
        return {**self.inner.init(model), AVERAGE: torch.zeros(model.size), WEIGHT: torch.zeros(())}

    def step(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """A step of the inner objective; the average follows."""
        w, s = self.inner.step(w, s, batch, ctx)
        average = self.beta * s[AVERAGE] + (1 - self.beta) * w
        return w, {**s, AVERAGE: average, WEIGHT: self.beta * s[WEIGHT] + (1 - self.beta)}


def average(w: Tensor, s: State) -> Tensor:
    """A peer's averaged parameters ``[..., D]``; its present ones ``w`` where it keeps no average or never trained."""
    if AVERAGE not in s:
        return w
    weight = s[WEIGHT][..., None]
    return torch.where(weight > 0, s[AVERAGE] / weight.clamp_min(1e-12), w)


@dataclass(frozen=True, eq=False)
class Network:
    """What a network with parameters ``w [D]`` says of places and times: velocities, or whose sample it may be."""

    model: Model
    w: Tensor

    @torch.no_grad()
    def at(self, rows: Tensor) -> Tensor:
        """Of rows ``[M, d + TIME]``."""
        return self.model.forward(self.w, rows)

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Of places ``x [M, d]`` at one time."""
        return self.at(placed_at(x, t))


@torch.no_grad()
def follow(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """Samples ``[M, d]`` from noise ``x [M, d]``: Euler steps against the velocity, from t = 1 to 0."""
    if steps < 1:
        raise ConfigError(f"sampling_steps = {steps}: must be at least 1")
    for step in range(steps):
        x = x - velocity(x, 1 - step / steps) / steps
    return x
