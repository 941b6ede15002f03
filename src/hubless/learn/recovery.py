"""Gradient inversion: training samples from the gradient that they made.

Three sources, from the simplest to the general. Labels can be read off the last layer (iDLG, arXiv 2001.02610; for
several samples LLG, arXiv 2105.09369). The input of a fully connected first layer follows exactly from its gradient
(arXiv 2003.14053, proposition 3.1). Any other input is searched for: one whose gradient looks alike (DLG, arXiv
1906.08935; with cosine distance and total variation, Geiping et al., arXiv 2003.14053).

Gradients ``g [D]`` may be known up to a positive factor: an update divided by any learning rate will do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import State
from hubless.learn.model import Model

AGREE = (1e-4, 1e-3, 1e-2)  # mean squared differences, of a range of 1, up to which two rows show the same sample


@dataclass(frozen=True)
class Seen:
    """What an attacker knows of one batch.

    w, g:   parameters ``[D]`` where the victim began, and its gradient there
    known:  which entries of g were sent ``[D]``, 1 or 0
    s:      the victim's buffers
    count:  samples in the batch
    shape:  of one sample
    bounds: least and largest value of an input
    """

    model: Model
    w: Tensor
    g: Tensor
    known: Tensor
    s: State
    count: int
    shape: tuple[int, ...]
    bounds: tuple[float, float]


class Method(Protocol):
    """A way to recover inputs."""

    def check(self, model: Model, shape: tuple[int, ...]) -> None:
        """Raise ConfigError when it cannot work on such a network."""

    def __call__(self, seen: Seen, y: Tensor, key: keys.Key) -> Tensor:
        """Inputs ``[count, ...]`` of samples with labels ``y [count]``."""


def _layers(model: Model) -> list[tuple[str, nn.Module]]:
    """Layers with trained parameters of their own, in the order of the module."""
    named = [(path, layer) for path, layer in model.module.named_modules() if list(layer.parameters(recurse=False))]
    own = [(f"{path}." if path else "", layer) for path, layer in named]
    return [(path, layer) for path, layer in own if f"{path}weight" in model.names]


def _output(model: Model) -> tuple[str, nn.Linear]:
    layers = _layers(model)
    if not layers or not isinstance(layers[-1][1], nn.Linear):
        raise ConfigError(f"inversion: {model.name} has no trained linear last layer, from which labels are read")
    return layers[-1][0], layers[-1][1]


def labels(model: Model, g: Tensor, count: int) -> Tensor:
    """Labels ``[count]`` of the samples behind a gradient, in rising order.

    A sample pushes the last layer's entry of its own class down and all others up; an entry below 0 therefore has
    a sample. Further ones are given to the classes that lie lowest once those found are taken out (LLG).
    Raises ConfigError when the last layer is not linear.
    """
    path, layer = _output(model)
    parts = model.unflatten(g)
    slope = parts[f"{path}bias"] if layer.bias is not None else parts[f"{path}weight"].sum(1)
    slope = slope.clone()
    one = slope.clamp(max=0).sum() * (1 + 1 / len(slope)) / count
    there = torch.nonzero(slope < 0).flatten()
    found = there[slope[there].argsort()][:count].tolist()
    for label in found:
        slope[label] -= one
    while len(found) < count:
        found.append(int(slope.argmin()))
        slope[found[-1]] -= one
    return torch.tensor(sorted(found), device=g.device)


@dataclass(frozen=True)
class Analytic:
    """Exact, where the first layer is fully connected with bias: its gradients are ``dW = d x`` and ``db = d``.

    Of one sample every row of ``dW / db`` is x. Of several, rows of units that only one sample activated show it, and
    agree with each other; rows of other units show mixtures, and do not.
    """

    def check(self, model: Model, shape: tuple[int, ...]) -> None:
        """Raise ConfigError for another first layer."""
        self._first(model, shape)

    def _first(self, model: Model, shape: tuple[int, ...]) -> str:
        layers = _layers(model)
        path, layer = layers[0] if layers else ("", None)
        if not isinstance(layer, nn.Linear) or layer.bias is None or layer.in_features != math.prod(shape):
            raise ConfigError(
                f"inversion: the first layer of {model.name} is not fully connected with bias; use method=Matching()"
            )
        return path

    def __call__(self, seen: Seen, y: Tensor, key: keys.Key) -> Tensor:
        """Inputs ``[count, ...]``; not in the order of the labels."""
        path, parts = self._first(seen.model, seen.shape), seen.model.unflatten(seen.g)
        dW, db = parts[f"{path}weight"].double(), parts[f"{path}bias"].double()
        low, high = seen.bounds
        found = _agreeing(dW, db, seen.count, high - low) if seen.count > 1 else []
        found += [_fitted(dW, db)] * (seen.count - len(found))
        return torch.stack(found).clamp(low, high).reshape(seen.count, *seen.shape).to(seen.w)


def _agreeing(dW: Tensor, db: Tensor, count: int, span: float) -> list[Tensor]:
    """At most so many inputs that several units show, those that most units show first; loosely where few agree."""
    rows = torch.nonzero(db.abs() > 1e-4 * db.abs().max()).flatten()
    x = dW[rows] / db[rows, None]
    gap = torch.cdist(x, x).square() / x.shape[1] / span**2
    left = torch.ones(len(rows), dtype=torch.bool, device=x.device)
    found: list[Tensor] = []
    for most in AGREE:
        while len(found) < count:
            group = (gap < most) & left & left[:, None]
            if len(rows) == 0 or int((support := group.sum(1)).max()) < 2:
                break
            chosen = group[int(support.argmax())]
            found.append(_fitted(dW[rows[chosen]], db[rows[chosen]]))
            left &= ~chosen
    return found


def _fitted(dW: Tensor, db: Tensor) -> Tensor:
    """The x for which ``db x`` comes nearest to ``dW``."""
    return (db @ dW) / db.square().sum().clamp_min(1e-30)


@dataclass(frozen=True)
class Matching:
    """A search for inputs whose gradient is near the one that was seen, by signed Adam within the range of inputs.

    distance: cosine (Geiping et al.), or l2 (DLG), which has to know what makes an update a gradient
    tv:       weight of the images' total variation, which real images have little of
    steps:    of the search; its step falls to a tenth after 3/8, 5/8 and 7/8 of them
    size:     first step, of a range of inputs of 1
    restarts: searches from other random inputs; the one with the nearest gradient counts
    rate:     learning rate times local steps: a gradient is an update divided by -rate (l2 only)
    """

    distance: Literal["cosine", "l2"] = "cosine"
    tv: float = 1e-5
    steps: int = 300
    size: float = 0.1
    restarts: int = 2
    rate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"inversion.{name} = {getattr(self, name)}: must be at least 1")
        if self.tv < 0 or not (self.size > 0 and self.rate > 0):
            raise ConfigError("inversion: tv must not be negative; size and rate must be positive")
        if self.distance not in ("cosine", "l2"):
            raise ConfigError(f"inversion.distance = {self.distance!r}: must be cosine or l2")

    def check(self, model: Model, shape: tuple[int, ...]) -> None:
        """Every network that can be trained will do."""

    def __call__(self, seen: Seen, y: Tensor, key: keys.Key) -> Tensor:
        """Inputs ``[count, ...]``, each of the label at its place."""
        tried = [self._search(seen, y, keys.fold(key, "restart", turn)) for turn in range(self.restarts)]
        return min(tried, key=lambda one: one[0])[1]

    def _search(self, seen: Seen, y: Tensor, key: keys.Key) -> tuple[float, Tensor]:
        low, high = seen.bounds
        start = low + (high - low) * keys.uniform(key, (seen.count, *seen.shape)).to(seen.w)
        x = start.requires_grad_()
        optimiser = torch.optim.Adam([x], lr=self.size * (high - low))
        turns = [math.ceil(self.steps * part / 8) for part in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, turns, 0.1)
        for _ in range(self.steps):
            loss = self._gap(seen, x, y, create=True) + self.tv * variation(x)
            (slope,) = torch.autograd.grad(loss, x)
            x.grad = slope.sign()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(low, high)
        found = x.detach()
        return float(self._gap(seen, found, y, create=False)), found

    def _gap(self, seen: Seen, x: Tensor, y: Tensor, *, create: bool) -> Tensor:
        w = seen.w.detach().requires_grad_()
        state: Mapping[str, Tensor] = {name: value.clone() for name, value in seen.s.items()}
        loss = seen.model.loss(seen.model.forward(w, x, state, train=True), y).mean()
        (g,) = torch.autograd.grad(loss, w, create_graph=create)
        g, wanted = g * seen.known, seen.g * seen.known
        if self.distance == "cosine":
            gap: Tensor = 1 - (g @ wanted) / (g.norm() * wanted.norm()).clamp_min(1e-30)
            return gap
        wanted = wanted / self.rate
        return (g - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30)


def variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of images ``[n, ..., H, W]``; 0 for other inputs."""
    if x.dim() < 3:
        return x.new_zeros(())
    return (x[..., 1:, :] - x[..., :-1, :]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()


def matched(found: Tensor, truth: Tensor) -> tuple[list[int], Tensor]:
    """For each of the found inputs ``[B, ...]`` another true one ``[n, ...]``, nearest pairs first; and squared errors.

    Returns positions in ``truth`` and mean squared errors ``[B]``; B must not exceed n.
    """
    gap = torch.cdist(found.flatten(1).double(), truth.flatten(1).double()).square() / found[0].numel()
    places, errors = [0] * len(found), torch.zeros(len(found), dtype=torch.float64)
    for _ in range(len(found)):
        i, j = divmod(int(gap.argmin()), gap.shape[1])
        places[i], errors[i] = j, gap[i, j]
        gap[i], gap[:, j] = torch.inf, torch.inf
    return places, errors


def psnr(errors: Tensor, span: float) -> Tensor:
    """Peak signal-to-noise ratio in dB of mean squared errors, where inputs span so much; at most 100."""
    found: Tensor = 10 * torch.log10(span**2 / errors.clamp_min(1e-10 * span**2))
    return found
