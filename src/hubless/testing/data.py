"""Conformance of data sets and partitions, ours and third parties'; each raises AssertionError with the usual fix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.dataset import Dataset
from hubless.data.partition import Partition
from hubless.errors import ConfigError


def check_dataset(dataset: Dataset) -> None:
    """Shapes, types and values are what ``Dataset`` promises, in training and test alike."""
    name = dataset.name
    assert min(len(dataset.x), len(dataset.test_x)), f"{name}: training and test samples are both needed"
    assert dataset.x.shape[1:] == dataset.test_x.shape[1:], f"{name}: test inputs have another shape"
    for x, y, which in ((dataset.x, dataset.y, "training"), (dataset.test_x, dataset.test_y, "test")):
        assert len(x) == len(y), f"{name}: {len(x)} {which} inputs but {len(y)} targets"
        if dataset.task == "language":
            assert x.dtype == y.dtype == np.int64, f"{name}: tokens must be int64, not {x.dtype} and {y.dtype}"
            assert x.shape == y.shape, f"{name}: y must hold the token after each of x"
            assert x.min() >= 0, f"{name}: tokens are numbered from 0"
            continue
        assert x.dtype == np.float32, f"{name}: inputs must be float32, not {x.dtype}: .astype(np.float32)"
        assert np.isfinite(x).all(), f"{name}: {which} inputs are not all finite"
        if dataset.task == "regression":
            assert y.dtype == np.float32, f"{name}: regression targets must be float32, not {y.dtype}"
            assert np.isfinite(y).all(), f"{name}: {which} targets are not all finite"
            continue
        assert y.dtype == np.int64, f"{name}: labels must be int64, not {y.dtype}"
        assert y.ndim == 1, f"{name}: labels must be one number a sample, not {y.shape}"
        assert y.min() >= 0, f"{name}: labels are numbered from 0"
        assert y.max() < len(dataset.classes), f"{name}: label {y.max()} has no name in classes"
    assert dataset.outputs >= 1, f"{name}: a model needs at least one output"
    assert bool(dataset.classes) == (dataset.task == "classification"), f"{name}: only classification has classes"


def check_partition(partition: Partition, *, peers: int = 12, samples: int = 600) -> None:
    """Every sample has one holder, every peer a sample; the seed decides; wrong data is refused.

    Tried on ten classes, equal and unequal, or on inputs where it goes by these, with ``peers`` peers.
    """
    rng = np.random.default_rng(0)
    equal = rng.permutation(np.arange(samples) % 10)
    skewed = rng.permutation(np.minimum(np.arange(samples) // (samples // 14), 9))
    if partition.needs_inputs:
        equal, skewed = (rng.normal(size=(samples, 1, 2, 3)) + y[:, None, None, None] for y in (equal, skewed))
    for y in (equal, skewed):
        held = check_split(partition, y, peers, seed=1)
        assert any(
            not np.array_equal(a, b)
            for seed in range(2, 6)
            for a, b in zip(held, partition.split(y, peers, seed), strict=True)
        ), f"{partition}: the split is the same for every seed; draw from the generator that deal() is given"
    try:
        partition.split(equal[: peers - 1], peers, 0)
    except ConfigError:
        pass
    else:
        raise AssertionError(f"{partition}: fewer samples than peers must raise ConfigError")
    try:
        check_split(partition, rng.normal(size=samples).astype(np.float32), peers, seed=0)
    except ConfigError:
        assert partition.needs_labels or partition.needs_inputs, (
            f"{partition}: says it needs no labels, but refuses regression targets"
        )
    _check_shift(partition, rng.random((7, 1, 8, 8)).astype(np.float32), peers)


def check_split(partition: Partition, y: NDArray[Any], peers: int, seed: int) -> list[NDArray[np.int64]]:
    """One split: disjoint, complete, nobody empty, the same when asked again. Gives the split."""
    before = y.copy()
    held = partition.split(y, peers, seed)
    assert len(held) == peers, f"{partition}: {len(held)} parts for {peers} peers"
    assert all(rows.dtype == np.int64 for rows in held), f"{partition}: sample numbers must be int64"
    every = np.sort(np.concatenate(held))
    assert np.array_equal(every, np.arange(len(y))), f"{partition}: samples are lost or repeated"
    assert min(len(rows) for rows in held) >= 1, f"{partition}: a peer has no sample"
    again = partition.split(y, peers, seed)
    assert all(np.array_equal(a, b) for a, b in zip(held, again, strict=True)), f"{partition}: same seed, other split"
    assert np.array_equal(y, before), f"{partition}: writes into the targets"
    return held


def _check_shift(partition: Partition, x: NDArray[Any], peers: int) -> None:
    before = x.copy()
    for peer in range(peers):
        seen = partition.shift(x, peer, peers)
        assert seen.shape == x.shape, f"{partition}: shift changes the shape {x.shape} to {seen.shape}"
        assert seen.dtype == x.dtype, f"{partition}: shift changes the type {x.dtype} to {seen.dtype}"
        assert np.isfinite(seen).all(), f"{partition}: shift makes values that are not finite"
        assert np.array_equal(seen, partition.shift(x, peer, peers)), f"{partition}: shift is not deterministic"
    assert np.array_equal(x, before), f"{partition}: shift writes into its input"
