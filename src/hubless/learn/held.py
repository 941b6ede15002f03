"""Held-out samples: what each peer has beside its training set, to judge others by. Nobody trains on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError


def set_apart(data: Dataset, each: int, peers: int, seed: int) -> tuple[Dataset, NDArray[Any]]:
    """The data set without what is held out, and that: ``[classes, peers, each, ...]``, no sample twice.

    Every class is drawn from, for every peer, so that the draw depends on no partition. Raises ConfigError for data
    without classes, and for a class that has too few samples to leave one for training.
    """
    if data.task != "classification":
        raise ConfigError(f"held = {each}: counts samples of a class, but {data.name} has no classes")
    rng = np.random.default_rng([seed, 0x4E1D])
    drawn = []
    for label, name in enumerate(data.classes):
        rows = rng.permutation(np.flatnonzero(data.y == label))
        if len(rows) <= each * peers:
            raise ConfigError(
                f"held = {each}: class {name!r} has {len(rows)} training samples, but {peers} peers would hold out"
                f" {each * peers} of them; hold out less"
            )
        drawn.append(rows[: each * peers])
    left = np.ones(len(data.y), bool)
    left[np.concatenate(drawn)] = False
    x = data.x[np.stack(drawn)]
    return replace(data, x=data.x[left], y=data.y[left]), x.reshape(len(drawn), peers, each, *data.x.shape[1:])
