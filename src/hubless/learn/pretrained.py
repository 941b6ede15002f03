"""Pre-trained trunks: a network trained once on other data, then frozen, through which peers see their own.

A trunk that is frozen and the same everywhere need not be part of what peers train or send: its outputs are computed
once and are their data.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hubless.data.dataset import Dataset
from hubless.data.fetch import cached
from hubless.errors import ConfigError
from hubless.learn.learning import Learning
from hubless.learn.local import SGD
from hubless.learn.model import BUFFER, Model
from hubless.learn.overlays import Alone
from hubless.learn.workload import Workload
from hubless.models.starts import gaussian
from hubless.models.zoo import Architecture
from hubless.run.setting import Setting

CHUNK = 4096  # samples that go through a trunk at a time
FLAT = 1e-6  # a deviation that is only rounding
COHORT = "cohort.0/state/"


@dataclass(frozen=True)
class Pretraining:
    """How a trunk comes about: SGD on a classification set, with an output layer that is then thrown away.

    architecture: of the trunk, built with ``features`` outputs; weights start Gaussian
    samples:      of the data set, drawn at random; 0 takes all
    steps:        of SGD, with mini-batches of ``batch``
    """

    architecture: Architecture
    features: int = 64
    samples: int = 8000
    steps: int = 800
    batch: int = 64
    lr: float = 0.05

    def trunk(self, data: Dataset) -> Trunk:
        """The trunk: trained, or as an earlier run of this machine left it in the cache, with the same numbers.

        Raises ConfigError for data without classes or too few samples, and for a network that does not fit it.
        """
        if data.task != "classification":
            raise ConfigError(f"pretrain: a trunk is trained on classes, which {data.name} does not have")
        drawn, digest = _drawn(data, self.samples)
        model = Model(lambda: self._network(data), name=f"trunk of {self.features}")
        pins = {"data": digest, "model": model.fingerprint, **{
            name: str(getattr(self, name)) for name in ("features", "steps", "batch", "lr")}}  # fmt: skip
        key = hashlib.blake2b(repr(sorted(pins.items())).encode(), digest_size=8).hexdigest()
        if key not in _made:
            arrays = cached(f"trunk-{key}", pins, lambda: self._trained(drawn))
            network = self._network(data)
            network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
            _made[key] = Trunk(network[0].eval(), data.shape, data.name)
        return _made[key]

    def _network(self, data: Dataset) -> nn.Sequential:
        trunk = gaussian(self.architecture)(data.shape, self.features)
        return nn.Sequential(trunk, nn.ReLU(), nn.Linear(self.features, len(data.classes)))

    def _trained(self, data: Dataset) -> dict[str, NDArray[Any]]:
        """Parameters and statistics by name: a population of one learns for one round."""
        centre, scale = _moments(data.x, None)
        standard = replace(data, x=(data.x - centre) / scale, test_x=data.test_x[:1], test_y=data.test_y[:1])
        work = Workload(standard, "iid", 1, lambda *_: self._network(data))
        run = Learning(work, SGD(lr=self.lr, steps=self.steps, batch=self.batch), Alone(), rounds=1).under(
            Setting(seed=0, threads=1)
        )
        list(run.records())
        state = run.snapshot().tensors
        buffers = {n.removeprefix(COHORT + BUFFER): v[0] for n, v in state.items() if n.startswith(COHORT + BUFFER)}
        return {name: value.numpy() for name, value in {**run.model(), **buffers}.items()}


@lru_cache(maxsize=1)
def _drawn(data: Dataset, samples: int) -> tuple[Dataset, str]:
    """The samples that a trunk is trained on, and their digest."""
    drawn = data.subset(samples, 0)
    digest = hashlib.blake2b(drawn.x.tobytes(), digest_size=16)
    digest.update(drawn.y.tobytes())
    return drawn, digest.hexdigest()


_made: dict[str, Trunk] = {}


@dataclass(frozen=True, eq=False)
class Trunk:
    """A frozen network from samples of ``shape`` to features, pre-trained on the data set ``origin``."""

    module: nn.Module
    shape: tuple[int, ...]
    origin: str

    def through(self, data: Dataset) -> Dataset:
        """The data set as seen through the trunk: features ``[M, d]``, standardised over the training samples.

        Inputs are standardised first, each set by the mean and deviation of all its training inputs; these, like those
        of the features, are taken to be public. Raises ConfigError for samples of another shape.
        """
        if data.shape != self.shape:
            raise ConfigError(
                f"pretrain: the trunk takes samples of shape {self.shape}, those of {data.name} have {data.shape}"
            )
        return _through(self, data)


@lru_cache(maxsize=2)
def _through(trunk: Trunk, data: Dataset) -> Dataset:
    x, test = (_features(trunk, part, *_moments(data.x, None)) for part in (data.x, data.test_x))
    centre, scale = _moments(x, 0)
    name = f"{data.name} through a trunk of {trunk.origin}"
    return replace(data, name=name, x=(x - centre) / scale, test_x=(test - centre) / scale)


def _moments(x: NDArray[Any], axis: int | None) -> tuple[Any, Any]:
    """Mean and standard deviation; 1 for what never changes."""
    scale = x.std(axis)
    return x.mean(axis), np.where(scale < FLAT, 1, scale).astype(x.dtype)


def _features(trunk: Trunk, x: NDArray[Any], centre: Any, scale: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        parts = [
            trunk.module(torch.from_numpy((x[first : first + CHUNK] - centre) / scale)).flatten(1)
            for first in range(0, len(x), CHUNK)
        ]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found
