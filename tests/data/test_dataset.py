from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.testing.data import check_dataset

X = np.arange(40.0).reshape(20, 2)
Y = np.arange(20) % 2


def test_arrays_are_split_by_class() -> None:
    dataset = Dataset.of(X, np.r_[np.zeros(15), np.ones(5)], test=0.2)
    check_dataset(dataset)
    assert np.bincount(dataset.y).tolist() == [12, 4]
    assert np.bincount(dataset.test_y).tolist() == [3, 1]
    assert sorted(np.concatenate([dataset.x, dataset.test_x])[:, 0]) == list(X[:, 0])
    assert dataset.classes == ("0", "1")


def test_tensors_in_a_graph_are_taken() -> None:
    x = torch.ones(20, 3, requires_grad=True) * 2
    dataset = Dataset.of(x, torch.from_numpy(Y))
    check_dataset(dataset)
    assert dataset.x.shape == (16, 3)
    torch.from_numpy(dataset.x)[:] = 0  # writable, so that torch does not warn


def test_given_test_arrays_and_names() -> None:
    dataset = Dataset.of(X, Y, test=(X[:4], Y[:4]), classes=("no", "yes", "never seen"), name="mine")
    assert (len(dataset), len(dataset.test_x), dataset.outputs, dataset.name) == (20, 4, 3, "mine")


def test_regression_and_language() -> None:
    regression = Dataset.of(X, X, task="regression")
    check_dataset(regression)
    assert regression.outputs == 2
    language = Dataset.of(np.full((10, 4), 300), np.full((10, 4), 2), task="language")
    check_dataset(language)
    assert language.outputs == 301


@pytest.mark.parametrize(
    ("x", "y", "options", "said"),
    [
        (X, Y[:-1], {}, "20 inputs but 19 targets"),
        (X, Y + 1, {}, r"0..C-1 with every class present, got 1..2"),
        (X, Y * 2, {}, r"got 0..2 with 2 different ones"),
        (X, Y - 1, {"classes": ("a", "b")}, r"0..1 for 2 classes, got -1..0"),
        (X, Y + 0.5, {}, "whole numbers"),
        (X, Y * np.nan, {}, "whole numbers"),
        (X, np.stack([Y, Y]).T, {}, r"labels must be \[samples\]"),
        (np.where(X == 6, np.nan, X), Y, {}, "1 of 20 rows are not finite in float32, the first is row 3"),
        (X * 1e39, Y, {}, "not finite in float32"),
        (X, np.full(20, np.inf), {"task": "regression"}, "not finite"),
        (X.astype(str), Y, {}, "must be numbers"),
        ([[1.0], [1.0, 2.0]], [0, 1], {}, "same shape"),
        (X[:0], Y[:0], {}, "no samples"),
        (X[:, 0], Y, {}, r"x must be \[samples, ...\]"),
        (X, Y, {"test": 0.0}, "between 0 and 1"),
        (X, Y, {"test": 0.01}, "too few to hold out"),
        (X, Y, {"test": (X[:2], Y[:1])}, "test: 2 inputs but 1 targets"),
        (X, Y, {"test": (X[:2, :1], Y[:2])}, r"shape \(1,\), training inputs \(2,\)"),
        (X, Y, {"task": "language"}, "tokens must be whole numbers"),
    ],
)
def test_bad_arrays_are_refused(x: Any, y: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Dataset.of(x, y, **options)


@settings(deadline=None)
@given(samples=st.integers(1, 16), seed=st.integers(0, 10))
def test_subsets_are_drawn_without_repetition(samples: int, seed: int) -> None:
    dataset = Dataset.of(X, Y)
    part = dataset.subset(samples, seed)
    assert len(np.unique(part.x[:, 0])) == len(part.y) == samples
    assert np.isin(part.x[:, 0], dataset.x[:, 0]).all()
    assert ((part.x[:, 0] / 2) % 2 == part.y).all(), "inputs keep their labels"
    assert np.array_equal(part.x, dataset.subset(samples, seed).x)
    assert part.test_x is dataset.test_x


def test_subset_bounds() -> None:
    dataset = Dataset.of(X, Y)
    assert dataset.subset(0, 0) is dataset
    assert len(dataset.test_subset(3, 0).test_x) == 3
    assert any(dataset.subset(4, 0).x[:, 0] != dataset.subset(4, 1).x[:, 0])
    with pytest.raises(ConfigError, match="samples = 17, but there are 16 training samples"):
        dataset.subset(17, 0)
    with pytest.raises(ConfigError, match="test samples = 5, but there are 4 test samples"):
        dataset.test_subset(5, 0)


def test_the_check_finds_wrong_sets() -> None:
    good = Dataset.of(X, Y)
    for wrong in (
        {"x": good.x.astype(np.float64)},
        {"y": good.y + 1},
        {"test_x": good.test_x[:0], "test_y": good.test_y[:0]},
        {"classes": ()},
        {"y": good.y[:-1]},
    ):
        with pytest.raises(AssertionError, match="arrays"):
            check_dataset(Dataset(**{**vars(good), **wrong}))
