"""Means over seeds, differences between arms, and how sure one can be of them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
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


def bootstrap(values: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979); NaNs for one value or values not finite.

    level: probability mass inside the interval
    draws: resamples of the same size, with replacement
    seed:  same seed, same interval
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    chance = random.Random(seed)
    means = sorted(statistics.fmean(chance.choices(values, k=len(values))) for _ in range(draws))
    tail = (1 - level) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def summarise(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of the mean of at least one value."""
    spread = statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else 0.0
    return Summary(tuple(values), statistics.fmean(values), spread, *bootstrap(values))


def paired_difference(arm: Sequence[float], baseline: Sequence[float]) -> Summary:
    """Summary of ``arm - baseline``, seed by seed. Raises ValueError when the lengths differ."""
    return summarise([a - b for a, b in zip(arm, baseline, strict=True)])


def compare(results: Mapping[str, Sequence[Result]], metric: str) -> list[Comparison]:
    """The rows of ``hubless compare``: final values of the metric; the first arm is the baseline.

    Raises DataError when an arm never has the metric.
    """
    rows: list[Comparison] = []
    for arm, runs in results.items():
        summary = summarise([run.final(metric) for run in runs])
        difference = paired_difference(summary.values, rows[0].summary.values) if rows else None
        rows.append(Comparison(arm, summary, difference))
    return rows


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two nearest ranks."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
