"""What is trained by one who has all the data: a router between experts, a student of them, one model in their place.

Each is a population of one peer, trained as the experts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hubless.data.dataset import Dataset
from hubless.learn import keys
from hubless.learn.context import Batch, Context, State
from hubless.learn.flows.flow import (
    AVERAGE,
    TIME,
    WEIGHT,
    Averaged,
    Fading,
    FlowMatching,
    Network,
    Noised,
    average,
    drawn,
)
from hubless.learn.flows.routed import Router
from hubless.learn.learning import Learning
from hubless.learn.model import Model
from hubless.learn.overlays import Alone
from hubless.learn.slots import Gradient
from hubless.learn.workload import Workload
from hubless.models.zoo import Architecture
from hubless.run.setting import Setting

HELD = 10  # of so many samples, one only measures the router


@dataclass(frozen=True)
class Descent:
    """How networks of flows are trained: Adam with a rate that falls linearly to 0, and averaged parameters.

    lr:     learning rate of the first round
    rounds: of ``steps`` mini-batches each
    ema:    weight of the average so far at each step
    """

    lr: float = 2e-3
    rounds: int = 30
    steps: int = 50
    ema: float = 0.99

    def local(self, gradient: Gradient, batch: int) -> Averaged:
        """The local objective of a peer."""
        adam = Fading(lr=self.lr, steps=self.steps, batch=batch, gradient=gradient, keep=True, rounds=self.rounds)
        return Averaged(adam, self.ema)

    def alone(self, data: Dataset, model: Model, gradient: Gradient, batch: int, seed: int) -> Tensor:
        """The averaged parameters ``[D]`` that one peer comes to who has all the data."""
        learning = Learning(
            Workload(data, "iid", 1, model, test=1), self.local(gradient, batch), Alone(), rounds=self.rounds
        )
        run = learning.under(Setting(seed=seed, threads=1, evaluate=self.rounds))
        list(run.records())
        found = run.snapshot().tensors
        state = {name: found[f"cohort.0/state/{name}"] for name in (AVERAGE, WEIGHT)}
        return average(found["cohort.0/rows"], state)[0].clone()


def monolith(data: Dataset, model: Model, how: Descent, batch: int, seed: int) -> Network:
    """One network that is trained on a whole set of flows."""
    return Network(model, how.alone(data, model, FlowMatching(), batch, seed))


@dataclass(frozen=True, eq=False)
class Routing:
    """A trained router.

    accuracy: share of samples that it had not seen whose part is the likeliest for it, at each of ``times``
    size:     its parameters
    """

    router: Router
    times: list[float]
    accuracy: list[float]
    size: int


def train_router(
    clean: Tensor, owner: Tensor, clusters: int, network: Architecture, how: Descent, batch: int, seed: int
) -> Routing:
    """A classifier of noisy samples, from clean rows ``[M, d + TIME]`` and whose they are ``[M]``.

    It sees every part as large as it is, so that its posterior has the shares in it; a tenth of the samples, drawn at
    random, is kept to measure it.
    """
    order = keys.permutation(keys.fold(seed, "router held"), len(clean))
    held, rest = order[: max(1, len(clean) // HELD)], order[len(clean) // HELD :]
    names = tuple(str(k) for k in range(clusters))
    x, y, test_x, test_y = (part.numpy() for part in (clean[rest], owner[rest], clean[held], owner[held]))
    data = Dataset("noisy samples", x, y, test_x, test_y, names)
    model = Model(lambda: network((clean.shape[1],), clusters), name="router")
    row = how.alone(data, model, Noised(), batch, seed)
    router = Router(Network(model, row), clusters)
    times = [step / 10 for step in range(11)]
    x0 = clean[held][:, :-TIME]
    eps = keys.normal(keys.fold(seed, "router test"), tuple(x0.shape))
    found = [router.logits((1 - t) * x0 + t * eps, t).argmax(1) == owner[held] for t in times]
    return Routing(router, times, [float(right.float().mean()) for right in found], model.size)


@dataclass(frozen=True, eq=False)
class Distilled(Gradient):
    """Flow matching towards the experts: the target is not a path's velocity, but that which the expert of the sample's
    cluster gives there (arXiv 2501.05450).

    experts: their networks; the targets of a batch are numbers of these ``[B, 1]``
    """

    experts: Sequence[Network]
    vectorised: ClassVar[bool] = False

    def __call__(self, w: Tensor, s: State, batch: Batch, ctx: Context) -> tuple[Tensor, State]:
        """Every sample asks one expert."""
        rows, u = drawn(batch.x, ctx.key)
        target = torch.zeros_like(u)
        for k, expert in enumerate(self.experts):
            mine = batch.y[:, 0] == k
            target[mine] = expert.at(rows[mine])
        return ctx.grad(w, s, Batch(rows, target, batch.weight))


def student(
    data: Dataset, owner: Tensor, experts: Sequence[Network], model: Model, how: Descent, batch: int, seed: int
) -> Network:
    """One network that learns from the experts, on a set of flows of which they hold the samples ``owner [M]`` says."""
    asked = replace(data, y=owner[:, None].to(torch.float32).numpy())
    return Network(model, how.alone(asked, model, Distilled(experts), batch, seed))
