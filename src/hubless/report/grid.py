"""The page of a sweep: heat maps of a metric over two options, one map for every choice of the further ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hubless.report import ink
from hubless.report.figures import Drawn, kebab
from hubless.report.reading import Array
from hubless.report.recorded import heat
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
    cells: Cells,
    metric: str,
    further: Sequence[str] = (),
) -> Path:
    """Write ``folder/report.html`` and ``folder/figures/*.png``; returns the page's path.

    cells:   values, one a seed, by (x, y) or by (x, y, value of each further option); a missing cell stays empty
    further: names of swept options beyond the two axes; every combination of their values gets a map

    With one swept option only, ``y_name`` is ``""`` and ``y_values`` is ``[""]``. All maps share one scale.
    """
    drawings = folder / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    means = {key: _mean(values) for key, values in cells.items()}
    known = [value for value in means.values() if math.isfinite(value)]
    bounds = (min(known), max(known)) if known else None
    figures = []
    with ink.styled():
        for k, rest in enumerate(dict.fromkeys(key[2:] for key in cells)):
            name = f"map-{k + 1}"
            where = ", ".join(f"{option} = {value}" for option, value in zip(further, rest, strict=True))
            label = f"{metric.replace('_', ' ')}, {where}" if where else metric.replace("_", " ")
            figure = heat(
                x_values,
                y_values,
                _table(x_values, y_values, means, rest),
                unit=metric,
                xlabel=x_name,
                ylabel=y_name,
                spread=_table(x_values, y_values, {key: _spread(v) for key, v in cells.items()}, rest),
                bounds=bounds,
            )
            reading = "A cell is the mean over its seeds, with the standard deviation where there are several."
            figures.append(Drawn(kebab(name), label, reading, ink.save(figure, name, label, drawings)))
    seeds = max((len(values) for values in cells.values()), default=0)
    names = [name for name in (x_name, y_name, *further) if name]
    page = Page(
        title=heading,
        eyebrow="sweep",
        summary=f"{' × '.join(names)}: {count(len(cells), 'cell')}, {count(seeds, 'seed')} each",
        verdict=_verdict(means, (x_name, y_name, *further), metric),
        figures=figures,
        appendix=[_listing(cells, (x_name, y_name, *further), metric)],
    )
    return publish(page, folder / "report.html")


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


def _verdict(means: Mapping[tuple[Any, ...], float], names: Sequence[str], metric: str) -> str:
    known = {key: value for key, value in means.items() if math.isfinite(value)}
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
    return Table("All cells", [*(names[i] for i in shown), "mean", "spread"], rows)
