"""Probes: accuracy and loss of the population on other inputs than the test set's, clean or attacked.

They cost more than a round's evaluation, so they are taken rarely; none of them changes the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hubless.learn import keys
from hubless.learn.context import Batch, Context, State
from hubless.learn.evaluate import mean_row
from hubless.learn.gradients import PGD
from hubless.learn.kernels import choose
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View


def models(view: View) -> Iterator[tuple[Model, Tensor, State]]:
    """Every peer's network, parameters ``[D]`` and state; once for all where they share one."""
    for peer in [0] if view.population.shared else view.population.members():
        cohort, w, s = view.population.peer(peer)
        yield cohort.model, w, s


def accuracy(model: Model, w: Tensor, s: State, x: Tensor, y: Tensor) -> float:
    """Share of ``x [M, ...]`` that one peer's network classifies as ``y [M]``."""
    with torch.no_grad():
        return float((model.forward(w, x, s).argmax(-1) == y).float().mean())


def attacked(attack: PGD, model: Model, w: Tensor, s: State, batch: Batch, view: View) -> Tensor:
    """Adversarial inputs ``[M, ...]`` against one peer's network; the random start is the same for every peer."""
    one = Batch(batch.x[:1][None], batch.y[:1][None])
    slope = Session(choose(model, 1, one, plain=False, kind="loop"))  # one peer, many samples: nothing to stack
    ctx = Context(t=view.t, N=view.population.n, model=model, slope=slope, key=keys.fold(view.t, "probe"))
    return attack(w, s, batch, ctx).x


@dataclass(frozen=True, eq=False)
class HeldOut(Hook):
    """Mean accuracy of the peers on samples of the recipe's choice, in every tenth and the last round.

    name: of the metric
    x, y: ``[M, ...]`` and ``[M]``
    """

    name: str
    x: Tensor
    y: Tensor

    def round(self, view: View) -> Mapping[str, float]:
        """The metric ``name``."""
        if view.t % 10 and view.t < view.rounds:
            return {}
        scores = [accuracy(model, w, s, self.x, self.y) for model, w, s in models(view)]
        return {self.name: sum(scores) / len(scores)}


@dataclass(frozen=True)
class Robustness(Hook):
    """Accuracy on attacked test inputs in the last round, and on inputs with random noise of the same radius.

    A network that does worse under noise than under attack hides its gradients from the attack (arXiv 1802.00420,
    section 3.1); its robust accuracy then means nothing.

    samples: of the test set, from its beginning
    """

    attack: PGD
    samples: int = 1000

    def round(self, view: View) -> Mapping[str, float]:
        """``robust_accuracy`` and ``noise_accuracy``, averaged over the peers."""
        if view.t < view.rounds:
            return {}
        batch = Batch(view.shards.test_x[: self.samples], view.shards.test_y[: self.samples])
        noise = replace(self.attack, steps=0, start=True)
        found = {}
        for name, attack in (("robust_accuracy", self.attack), ("noise_accuracy", noise)):
            scores = [
                accuracy(model, w, s, attacked(attack, model, w, s, batch, view), batch.y)
                for model, w, s in models(view)
            ]
            found[name] = sum(scores) / len(scores)
        return found


@dataclass(frozen=True)
class RobustLoss(Hook):
    """The global robust loss of the average model on all training samples, after every round.

    ``L_A(U) = 1/M sum_j l(f_U(A(f_U, x_j, y_j)), y_j)`` (arXiv 2208.03635)
    """

    attack: PGD

    def round(self, view: View) -> Mapping[str, float]:
        """``robust_loss``."""
        (cohort,) = view.population.cohorts
        row, state = mean_row(cohort, cohort.ids)
        w, s, model = row[0], {name: value[0] for name, value in state.items()}, cohort.model
        batch = Batch(view.shards.x[view.shards.flat], view.shards.y[view.shards.flat])
        with torch.no_grad():
            out = model.forward(w, attacked(self.attack, model, w, s, batch, view), s)
            return {"robust_loss": float(model.loss(out, batch.y).mean())}
