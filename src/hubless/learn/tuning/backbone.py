"""Pre-trained backbones: a network trained once on other classes, whose weights peers start from.

Unlike a trunk (``pretrained``), the network stays whole: peers compute with it, and may tune what they like of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn

from hubless.data.classes import labels, spoken
from hubless.data.dataset import Dataset
from hubless.data.fetch import Arrays, cached
from hubless.data.lock import alone
from hubless.errors import ConfigError
from hubless.learn.context import Batch
from hubless.learn.kernels.choice import choose
from hubless.learn.model import Model
from hubless.models.zoo import Architecture
from hubless.parts import make

Source = tuple[Dataset, Sequence[int]]  # a set, and the labels of it that are learned
HEAD = "head."  # prefix of the parameters that are new for every task
WARMING, LOWEST, FIRST = 0.3, 1e-4, 1 / 25  # of the one-cycle schedule, as in torch.optim.lr_scheduler.OneCycleLR
BETAS, EPSILON, DECAY = (0.9, 0.999), 1e-8, 0.01  # of AdamW, as in torch.optim.AdamW
TRACED = 100  # steps from which tracing them pays
DIGESTED = 64  # samples of a set that go into its digest

_made: dict[str, dict[str, Tensor]] = {}


@dataclass(frozen=True)
class Backbone:
    """How a backbone comes about: AdamW under a one-cycle schedule, on the classes of all sources together.

    architecture: its network; parameters named ``head...`` are thrown away
    sources:      sets and which of their labels are learned; samples of all of them count the same
    steps:        of AdamW, with mini-batches of ``batch`` drawn with replacement
    lr:           the highest learning rate
    """

    architecture: Architecture
    sources: tuple[Source, ...]
    steps: int = 2000
    batch: int = 96
    lr: float = 3e-3

    def __post_init__(self) -> None:
        first = self.sources[0][0]
        for data, kept in self.sources:
            if data.task != "classification" or data.shape != first.shape:
                raise ConfigError(
                    f"backbone: {data.name} has samples of shape {data.shape} for {data.task}, and {first.name} of"
                    f" {first.shape}; all must be alike, for classification"
                )
            if not kept or max(kept) >= len(data.classes):
                raise ConfigError(f"backbone: {data.name} has no labels {spoken(kept)}; it has {len(data.classes)}")
        if min(self.steps, self.batch) < 1 or self.lr <= 0:
            raise ConfigError(f"backbone: steps = {self.steps}, batch = {self.batch}, lr = {self.lr}: must be positive")

    def values(self) -> dict[str, Tensor]:
        """Parameters by name, without the head: trained, or as this machine has them in its cache."""
        model = self._model()
        pins = {name: str(getattr(self, name)) for name in ("steps", "batch", "lr")}
        pins |= {"model": model.fingerprint, "data": " ".join(_digest(*source) for source in self.sources)}
        key = hashlib.blake2b(repr(sorted(pins.items())).encode(), digest_size=8).hexdigest()
        if key not in _made:
            with alone(f"backbone-{key}"):
                arrays = cached(f"backbone-{key}", pins, lambda: self._trained(model))
            _made[key] = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        return _made[key]

    def into(self, architecture: Architecture) -> Architecture:
        """An architecture that starts from the backbone's values, with a new head, and whatever it has beside them.

        The network that it builds must have every parameter of the backbone; others, such as adapters and prompts,
        are left as they are. Raises ConfigError, when it is built, for a network that does not fit.
        """
        values = self.values()

        @wraps(architecture)
        def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
            module = architecture(shape, outputs)
            own = dict(module.named_parameters())
            for name, value in values.items():
                if name not in own or own[name].shape != value.shape:
                    found = f"of shape {tuple(own[name].shape)}" if name in own else "missing"
                    raise ConfigError(
                        f"model: {name} is {tuple(value.shape)} in the backbone and {found} in {type(module).__name__};"
                        " give both the same architecture"
                    )
            with torch.no_grad():
                for name, value in values.items():
                    own[name].copy_(value)
            return module

        return build

    def _model(self) -> Model:
        data, outputs = self.sources[0][0], sum(len(kept) for _, kept in self.sources)
        return Model(lambda: self.architecture(data.shape, outputs), name="backbone")

    def _trained(self, model: Model) -> Arrays:
        rows = [np.flatnonzero(np.isin(data.y, kept)) for data, kept in self.sources]
        draws = np.random.default_rng([0, 0xBAC7])
        w = model.start(0)
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        kind = "auto" if self.steps >= TRACED else "loop"
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so that sums do not depend on the machine
        try:
            for t in range(self.steps):
                batch = self._batch(rows, draws)
                g = choose(model, 1, batch, plain=False, kind=kind).grad(w[None], {}, batch)[0][0]
                m = BETAS[0] * m + (1 - BETAS[0]) * g
                v = BETAS[1] * v + (1 - BETAS[1]) * g * g
                mean, spread = m / (1 - BETAS[0] ** (t + 1)), (v / (1 - BETAS[1] ** (t + 1))).sqrt()
                w = w - self.rate(t) * (mean / (spread + EPSILON) + DECAY * w)
        finally:
            torch.set_num_threads(threads)
        return {name: p.numpy() for name, p in model.unflatten(w).items() if not name.startswith(HEAD)}

    def rate(self, t: int) -> float:
        """The learning rate of step t, counted from 0: up for 30 % of the steps and down to almost nothing, by cosines.

        As in Smith and Topin (arXiv 1708.07120) and torch's ``OneCycleLR``, but with constant betas.
        """
        top = WARMING * self.steps - 1
        low, high, share = (
            (FIRST, 1.0, t / top if top > 0 else 1.0)
            if t <= top
            else (FIRST * LOWEST, 1.0, 1 - (t - top) / max(self.steps - 1 - top, 1))
        )
        return self.lr * (low + (high - low) * (1 - math.cos(math.pi * share)) / 2)

    def _batch(self, rows: list[np.ndarray], draws: np.random.Generator) -> Batch:
        """A mini-batch of a population of one: ``x [1, B, ...]``, ``y [1, B]``."""
        ends = np.cumsum([len(part) for part in rows])
        drawn = np.sort(draws.integers(ends[-1], size=self.batch))
        x, y, first, offset = [], [], 0, 0
        for (data, kept), part, end in zip(self.sources, rows, ends, strict=True):
            mine = part[drawn[(drawn >= first) & (drawn < end)] - first]
            number = np.full(len(data.classes), -1)
            number[list(kept)] = np.arange(offset, offset + len(kept))
            x.append(data.x[mine])
            y.append(number[data.y[mine]])
            first, offset = end, offset + len(kept)
        return Batch(torch.from_numpy(np.concatenate(x))[None], torch.from_numpy(np.concatenate(y))[None])


def sources(text: str, where: str = "pretrain") -> tuple[Source, ...]:
    """Sets and labels as people write them: ``mnist/0-4+fashion-mnist``. Raises ConfigError for unknown ones."""
    found = []
    for word in text.split("+"):
        name, _, kept = word.partition("/")
        data: Dataset = make("data", name, where=where)
        found.append((data, labels(kept or "all", data, where)))
    return tuple(found)


def _digest(data: Dataset, kept: Sequence[int]) -> str:
    """Of all labels, and of some samples: sets of a name differ by their seeds and settings."""
    some = data.x[:: max(1, len(data.x) // DIGESTED)]
    found = hashlib.blake2b(np.ascontiguousarray(some).tobytes(), digest_size=8)
    found.update(data.y.tobytes())
    return f"{data.name} {spoken(kept)} {found.hexdigest()}"
