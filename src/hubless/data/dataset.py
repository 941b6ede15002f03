"""A data set in memory: training and test arrays with what they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError

Task = Literal["classification", "regression", "language"]
BYTES = 256


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples; a loaded set is shared by the whole process, so nobody writes into its arrays.

    x:       inputs [M, ...], float32; for language int64 [M, L]
    y:       targets: int64 [M] (classification), float32 [M] or [M, D] (regression), int64 [M, L] (language)
    test_x, test_y: the same for the samples nobody trains on
    classes: names of the classes; empty for regression and language
    """

    name: str
    x: NDArray[Any]
    y: NDArray[Any]
    test_x: NDArray[Any]
    test_y: NDArray[Any]
    classes: tuple[str, ...] = ()
    task: Task = "classification"

    def __len__(self) -> int:
        """Number of training samples."""
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.x.shape[1:]

    @property
    def outputs(self) -> int:
        """Width of a model's output: classes, regression targets, or tokens (256, unless a token needs more)."""
        if self.task == "classification":
            return len(self.classes)
        if self.task == "regression":
            return int(np.prod(self.y.shape[1:], dtype=int))
        return max(BYTES, 1 + max(int(a.max(initial=0)) for a in (self.x, self.y, self.test_x, self.test_y)))

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        *,
        test: float | tuple[Any, Any] = 0.2,
        seed: int = 0,
        name: str = "arrays",
        classes: tuple[str, ...] = (),
        task: Task = "classification",
    ) -> Dataset:
        """A data set from arrays, tensors or nested lists.

        ``test`` is the share to hold out (drawn by class, so that both parts have the same mix), or the
        test arrays themselves. ``classes`` names the classes; without it they are named by their numbers.
        Raises ConfigError when lengths differ, inputs are not finite numbers, or labels are not 0..C-1.
        """
        x, y = _inputs(x, task, name), _targets(y, task, name)
        _same_length(x, y, name)
        if isinstance(test, tuple):
            test_x, test_y = _inputs(test[0], task, f"{name}, test"), _targets(test[1], task, f"{name}, test")
            _same_length(test_x, test_y, f"{name}, test")
            if test_x.shape[1:] != x.shape[1:]:
                raise ConfigError(f"{name}: test inputs have shape {test_x.shape[1:]}, training inputs {x.shape[1:]}")
        if task == "classification":
            classes = _named(np.concatenate([y, test_y]) if isinstance(test, tuple) else y, classes, name)
        if not isinstance(test, tuple):
            held = hold_out(y if task == "classification" else np.zeros(len(y), int), test, seed, name)
            x, y, test_x, test_y = x[~held], y[~held], x[held], y[held]
        return cls(name, x, y, test_x, test_y, classes, task)

    def subset(self, samples: int, seed: int) -> Dataset:
        """The same set with ``samples`` randomly drawn training samples; 0 takes all."""
        rows = _draw(len(self.x), samples, seed, f"{self.name}: samples", "training")
        return self if rows is None else replace(self, x=self.x[rows], y=self.y[rows])

    def test_subset(self, samples: int, seed: int) -> Dataset:
        """The same set with ``samples`` randomly drawn test samples; 0 takes all."""
        rows = _draw(len(self.test_x), samples, seed, f"{self.name}: test samples", "test")
        return self if rows is None else replace(self, test_x=self.test_x[rows], test_y=self.test_y[rows])


def hold_out(y: NDArray[Any], share: float, seed: int, name: str) -> NDArray[np.bool_]:
    """Which samples [M] to hold out: ``share`` of every class, rounded, leaving each class at least one."""
    if not 0 < share < 1:
        raise ConfigError(f"{name}: test = {share!r} must be between 0 and 1, or a pair of test arrays")
    rng = np.random.default_rng([seed, 0x7E57])
    held = np.zeros(len(y), bool)
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        held[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
    if not held.any():
        raise ConfigError(f"{name}: {len(y)} samples are too few to hold out {share:g} of every class for the test")
    return held


def _draw(have: int, samples: int, seed: int, where: str, what: str) -> NDArray[np.int64] | None:
    if samples < 0 or samples > have:
        raise ConfigError(f"{where} = {samples}, but there are {have} {what} samples (0 takes all)")
    if samples in (0, have):
        return None
    return np.random.default_rng([seed, 0x5B5E7]).permutation(have)[:samples]


def _array(values: Any, where: str) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor, perhaps on a device or in a graph
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError:
        raise ConfigError(f"{where}: rows must all have the same shape") from None
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{where}: must be numbers, not {array.dtype}")
    if array.ndim == 0 or not len(array):
        raise ConfigError(f"{where}: there are no samples")
    return array


def _inputs(values: Any, task: Task, name: str) -> NDArray[Any]:
    array = _array(values, f"{name}: x")
    if task == "language":
        return _tokens(array, f"{name}: x")
    if array.ndim < 2:
        raise ConfigError(f"{name}: x must be [samples, ...], one row a sample, not of shape {array.shape}")
    return _finite(array, f"{name}: x")


def _targets(values: Any, task: Task, name: str) -> NDArray[Any]:
    array = _array(values, f"{name}: y")
    if task == "language":
        return _tokens(array, f"{name}: y")
    if task == "regression":
        return _finite(array, f"{name}: y")
    if array.ndim != 1:
        raise ConfigError(f"{name}: labels must be [samples], one number a sample, not of shape {array.shape}")
    whole = array.astype(np.int64) if np.isfinite(array).all() else None
    if whole is None or (whole != array).any():
        raise ConfigError(f"{name}: labels must be whole numbers 0..C-1; for real targets use task='regression'")
    return whole


def _tokens(array: NDArray[Any], where: str) -> NDArray[np.int64]:
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.min(initial=0) < 0:
        raise ConfigError(f"{where}: tokens must be whole numbers >= 0 of shape [samples, length], got {array.shape}")
    return array.astype(np.int64)


def _finite(array: NDArray[Any], where: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise ConfigError(
            f"{where}: {len(bad)} of {len(array)} rows are not finite in float32, the first is row {bad[0]}"
        )
    return array


def _same_length(x: NDArray[Any], y: NDArray[Any], name: str) -> None:
    if len(x) != len(y):
        raise ConfigError(f"{name}: {len(x)} inputs but {len(y)} targets")


def _named(y: NDArray[Any], classes: tuple[str, ...], name: str) -> tuple[str, ...]:
    found = np.unique(y)
    if classes:
        if found[0] < 0 or found[-1] >= len(classes):
            raise ConfigError(
                f"{name}: labels must be 0..{len(classes) - 1} for {len(classes)} classes, got {found[0]}..{found[-1]}"
            )
        return tuple(classes)
    if found[0] != 0 or found[-1] != len(found) - 1:
        raise ConfigError(
            f"{name}: labels must be 0..C-1 with every class present, got {found[0]}..{found[-1]} "
            f"with {len(found)} different ones; renumber them, or name all classes"
        )
    return tuple(str(label) for label in found)
