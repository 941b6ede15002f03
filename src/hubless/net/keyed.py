"""Numbers that follow from integers alone: the same in any order, on any thread, in any process."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator for one purpose, seeded by non-negative integers."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *numbers])


def keys(purpose: str, *numbers: int | NDArray[Any]) -> NDArray[np.uint64]:
    """64 mixed bits for every element of the broadcast ``numbers`` (splitmix64, Steele et al. 2014, once a number)."""
    mixed = np.full(1, zlib.crc32(purpose.encode()), dtype=np.uint64)
    for number in numbers:
        word = np.atleast_1d(np.asarray(number)).astype(np.uint64)
        mixed = _splitmix(mixed ^ _splitmix(word))
    return mixed


def uniform(purpose: str, *numbers: int | NDArray[Any]) -> NDArray[np.float64]:
    """A number in [0, 1) for every element of the broadcast ``numbers``."""
    return (keys(purpose, *numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
