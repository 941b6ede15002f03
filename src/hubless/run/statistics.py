"""Means over seeds, differences between arms, and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubless.claims import Result


@dataclass(frozen=True)
class Summary:
    """A sample of one value a seed.

    spread:    standard deviation; 0 for one value
    low, high: bootstrap interval of the mean; NaN for fewer than two values
    """

    values: tuple[float, ...]
    mean: float
    spread: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One arm beside the baseline: ``difference`` is paired by seed, arm minus baseline; None for the baseline."""

    arm: str
    summary: Summary
    difference: Summary | None


def bootstrap(
    values: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean; NaNs for fewer than two values. Same seed, same interval."""
    raise NotImplementedError


def summarise(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of the mean."""
    raise NotImplementedError


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Summary:
    """Summary of ``arm - baseline``, seed by seed. Raises ValueError when the lengths differ."""
    raise NotImplementedError


def compare(results: dict[str, list[Result]], metric: str) -> list[Comparison]:
    """The rows of ``hubless compare``: final values of the metric; the first arm is the baseline.

    Raises DataError when an arm never has the metric.
    """
    raise NotImplementedError
