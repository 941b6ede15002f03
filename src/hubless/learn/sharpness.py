"""Sharpness of the average model: how fast the loss climbs around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.learn import keys
from hubless.learn.context import State
from hubless.learn.evaluate import mean_row
from hubless.learn.model import Model
from hubless.learn.slots import Hook, View
from hubless.learn.workload import Workload

SAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Sharpness(Hook):
    """Two metrics on the last round, at the average model; statistics of BatchNorm are the average ones.

    ``sharpness``: how much the loss on held-out samples climbs on a step of length ``radius`` along its gradient,
    ``L(w + radius g / |g|) - L(w)`` (the inner step of arXiv 2010.01412, equation 2).
    ``curvature``: the largest eigenvalue of the Hessian of the training loss (figure 3 there), by power iteration.

    x, y:       training samples ``[M, ...]`` of the whole population
    iterations: products of the Hessian with a vector
    radius:     length of the step
    """

    x: Tensor
    y: Tensor
    iterations: int = 20
    radius: float = 0.5

    @staticmethod
    def of(workload: Workload, seed: int, iterations: int = 20) -> Sharpness:
        """On the population's own training samples, at most 2000 of them."""
        data = workload.dataset.subset(workload.samples, seed)
        data = data.subset(min(SAMPLES, len(data)), seed)
        return Sharpness(torch.from_numpy(data.x), torch.from_numpy(data.y), iterations)

    def round(self, view: View) -> Mapping[str, float]:
        """Nothing before the last round."""
        if view.t < view.rounds:
            return {}
        cohort = view.population.cohorts[0]
        members = torch.tensor(view.population.members(), dtype=torch.int64)
        rows, state = mean_row(cohort, members)
        w, s = rows[0], {name: value[0] for name, value in state.items()}
        start = keys.normal(keys.fold(0, "sharpness"), tuple(w.shape), w.device)
        held = view.shards.test_x[:SAMPLES], view.shards.test_y[:SAMPLES]
        return {
            "sharpness": climb(cohort.model, w, s, *held, self.radius),
            "curvature": largest_curvature(cohort.model, w, s, self.x, self.y, start, self.iterations),
        }


def climb(model: Model, w: Tensor, s: State, x: Tensor, y: Tensor, radius: float) -> float:
    """``L(w + radius g / |g|) - L(w)`` for the mean loss L on samples ``[M, ...]`` and its gradient g at ``w [D]``."""
    leaf = w.detach().clone().requires_grad_()
    loss = model.loss(model.forward(leaf, x, s), y).mean()
    (g,) = torch.autograd.grad(loss, leaf)
    above = model.loss(model.forward(w + radius * g / g.norm().clamp_min(1e-12), x, s), y).mean()
    return float(above.detach() - loss.detach())


def largest_curvature(model: Model, w: Tensor, s: State, x: Tensor, y: Tensor, start: Tensor, iterations: int) -> float:
    """Largest eigenvalue in modulus of the Hessian of the mean loss at ``w [D]``, from the direction ``start [D]``."""
    leaf = w.detach().clone().requires_grad_()
    loss = model.loss(model.forward(leaf, x.to(w.device), s), y.to(w.device)).mean()
    (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
    v, value = start / start.norm(), 0.0
    for _ in range(iterations):
        (turned,) = torch.autograd.grad(slope, leaf, grad_outputs=v, retain_graph=True)
        value = float(turned @ v)
        v = turned / turned.norm().clamp_min(1e-12)
    return value
