"""The page of a sweep: heat maps of metrics over two options, one map for every choice of the further ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hubless.report import ink
from hubless.report.figures import Drawn, kebab
from hubless.report.reading import Array
from hubless.report.recorded import NARROW, heat
from hubless.report.template import Page, Table, publish
from hubless.report.words import count, measured

Cells = Mapping[tuple[Any, ...], Sequence[float]]


def write_grid(
    folder: Path,
    heading: str,
    x_name: str,
    x_values: Sequence[Any],
    y_name: str,
    y_values: Sequence[Any],
    cells: Mapping[str, Cells],
    further: Sequence[str] = (),
) -> Path:
    """Write ``folder/report.html`` and ``folder/figures/*.png``; returns the page's path.

    cells:   for every metric, values, one a seed, by (x, y) or by (x, y, value of each further option); a missing cell
             stays empty
    further: names of swept options beyond the two axes; every combination of their values gets a map

    With one swept option only, ``y_name`` is ``""`` and ``y_values`` is ``[""]``. All maps of a metric share one scale.
    """
    drawings = folder / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    axes = ((x_name, x_values), (y_name, y_values))
    names = [name for name in (x_name, y_name, *further) if name]
    figures = [drawn for metric, found in cells.items() for drawn in _maps(drawings, metric, found, axes, further)]
    places = {key for found in cells.values() for key in found}
    seeds = max((len(values) for found in cells.values() for values in found.values()), default=0)
    page = Page(
        title=heading,
        eyebrow="sweep",
        summary=f"{' × '.join(names)}: {count(len(places), 'cell')}, {count(seeds, 'seed')} each",
        verdict=" ".join(_verdict(metric, found, (x_name, y_name, *further)) for metric, found in cells.items()),
        figures=figures,
        appendix=[_listing(found, (x_name, y_name, *further), metric) for metric, found in cells.items()],
    )
    return publish(page, folder / "report.html")


def _maps(
    drawings: Path,
    metric: str,
    cells: Cells,
    axes: tuple[tuple[str, Sequence[Any]], tuple[str, Sequence[Any]]],
    further: Sequence[str],
) -> Iterator[Drawn]:
    (x_name, xs), (y_name, ys) = axes
    x_values = [x for x in xs if any(key[0] == x for key in cells)]  # a metric that a value never has needs no column
    y_values = [y for y in ys if any(key[1] == y for key in cells)]
    means = {key: _mean(values) for key, values in cells.items()}
    spread = {key: _spread(values) for key, values in cells.items()}
    known = [value for value in means.values() if math.isfinite(value)]
    with ink.styled():
        for k, rest in enumerate(dict.fromkeys(key[2:] for key in cells)):
            name = f"{metric}-map-{k + 1}"
            where = ", ".join(f"{option} = {value}" for option, value in zip(further, rest, strict=True))
            label = ", ".join(text for text in (metric.replace("_", " "), where) if text)
            figure = heat(
                x_values,
                y_values,
                _table(x_values, y_values, means, rest),
                unit=metric,
                xlabel=x_name,
                ylabel=y_name,
                spread=_table(x_values, y_values, spread, rest),
                bounds=(min(known), max(known)) if known else None,
            )
            reading = "A cell is the mean over its seeds, with the standard deviation where there are several."
            drawn = ink.save(figure, kebab(name), label, drawings)
            yield Drawn(kebab(name), label, reading, drawn, wide=len(x_values) > NARROW)


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return statistics.fmean(finite) if finite else math.nan


def _spread(values: Sequence[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return statistics.stdev(finite) if len(finite) > 1 else 0.0


def _table(x: Sequence[Any], y: Sequence[Any], values: Mapping[tuple[Any, ...], float], rest: tuple[Any, ...]) -> Array:
    rows = [[values.get((i, j, *rest), math.nan) for i in x] for j in y]
    return np.array(rows, dtype=np.float64).reshape(len(y), len(x))


def _place(key: tuple[Any, ...], names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in zip(names, key, strict=True) if name)


def _verdict(metric: str, cells: Cells, names: Sequence[str]) -> str:
    known = {key: _mean(values) for key, values in cells.items() if math.isfinite(_mean(values))}
    if not known:
        return f"No run has the metric {metric}."
    high, low = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    return (
        f"The highest {metric.replace('_', ' ')} is {measured(metric, known[high])}, with {_place(high, names)}; "
        f"the lowest is {measured(metric, known[low])}, with {_place(low, names)}."
    )


def _listing(cells: Cells, names: Sequence[str], metric: str) -> Table:
    shown = [i for i, name in enumerate(names) if name]
    rows = []
    for key, values in cells.items():
        spread = measured(metric, _spread(values)) if len(values) > 1 else "–"
        rows.append([*(str(key[i]) for i in shown), measured(metric, _mean(values)), spread])
    return Table(f"All cells: {metric.replace('_', ' ')}", [*(names[i] for i in shown), "mean", "spread"], rows)
