"""Claims that run: what a paper says, what this code measures, and whether it holds.

A claim compares variants of recipes on the seeds it is given. Its ``check`` asks a ``Lab`` for runs and
yields rows; ``hubless verify`` prints them and fails when one does not hold.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hubless.errors import DataError
from hubless.run.record import Record


@dataclass(frozen=True)
class Result:
    """One finished run: its options and its records."""

    recipe: str
    options: dict[str, Any]
    records: list[Record]

    def series(self, metric: str) -> list[float]:
        """The metric at every round that has it."""
        return [r.metrics[metric] for r in self.records if r.kind == "round" and metric in r.metrics]

    def final(self, metric: str) -> float:
        """The metric's last value."""
        for record in reversed(self.records):
            if metric in record.metrics:
                return record.metrics[metric]
        raise DataError(f"{self.recipe}: no record has the metric {metric!r}")

    def peers(self, name: str) -> list[float | None]:
        """The last per-peer values of that name."""
        for record in reversed(self.records):
            if name in record.peers:
                return record.peers[name]
        raise DataError(f"{self.recipe}: no record has per-peer values {name!r}")

    def rounds_to(self, metric: str, target: float) -> float:
        """First round whose metric reaches the target; infinity when none does."""
        hits = (r.round for r in self.records if r.kind == "round" and r.metrics.get(metric, -math.inf) >= target)
        return next(hits, math.inf)


class Lab(Protocol):
    """What a claim measures with."""

    seeds: Sequence[int]

    def runs(self, **arms: dict[str, Any]) -> dict[str, list[Result]]:
        """Run every arm on every seed, on all cores; a list of results an arm, in the order of the seeds.

        An arm is the options that differ from the recipe's defaults; ``recipe="fedavg"`` among them picks
        another recipe. Runs are remembered: asking twice costs once. Options given to ``verify`` reach
        every arm that has them and does not set them itself.
        """


@dataclass(frozen=True)
class Row:
    """One checked statement.

    values:    the measured figure, one a seed
    threshold: what was asked, in words
    held:      whether it holds for the mean of the values; None reports a figure without judging it
    """

    statement: str
    values: list[float]
    threshold: str
    held: bool | None
    paper: str = ""
    unit: str = ""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single one, NaN where a value is not finite."""
        if not all(map(math.isfinite, self.values)):
            return math.nan
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0


def at_least(statement: str, values: Iterable[float], bound: float, *, paper: str = "", unit: str = "") -> Row:
    """A row that holds when the mean is at least ``bound``."""
    measured = [float(v) for v in values]
    return Row(statement, measured, f">= {bound:g}", statistics.fmean(measured) >= bound, paper, unit)


def at_most(statement: str, values: Iterable[float], bound: float, *, paper: str = "", unit: str = "") -> Row:
    """A row that holds when the mean is at most ``bound``."""
    measured = [float(v) for v in values]
    return Row(statement, measured, f"<= {bound:g}", statistics.fmean(measured) <= bound, paper, unit)


def reported(statement: str, values: Iterable[float], *, paper: str = "", unit: str = "") -> Row:
    """A row that only reports a figure."""
    return Row(statement, [float(v) for v in values], "reported", None, paper, unit)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper with the code that checks it at laptop scale.

    statement: what should be seen, in one sentence
    paper:     the paper's own figure or wording, with its place
    check:     runs the variants it compares and yields rows
    """

    statement: str
    check: Callable[[Lab], Iterable[Row]] = field(repr=False)
    paper: str = ""
