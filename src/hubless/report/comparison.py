"""The page of several arms on the same seeds: curves over one another, final values, a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hubless.claims import Result
from hubless.report import ink
from hubless.report.figures import Drawn
from hubless.report.reading import Array, final, last_round, paired, peer_count, series
from hubless.report.template import Page, Table, publish
from hubless.report.verdict import Tile
from hubless.report.words import SIZES, SPANS, count, is_share, measured, number, scale, title
from hubless.run.statistics import Comparison

Results = Mapping[str, Sequence[Result]]
Rows = Sequence[Comparison | Mapping[str, Any]]
Curve = Callable[[Result], tuple[Array, Array]]


def write_comparison(
    folder: Path, heading: str, results: Results, rows: Rows, metric: str = "accuracy", verdict: str = ""
) -> Path:
    """Write ``folder/report.html`` and ``folder/figures/*.png``; returns the page's path.

    results: the runs of each arm, one a seed
    rows:    the table: ``Comparison`` rows, or mappings whose keys become the columns
    verdict: what came out, in plain words; by default which arm ends highest and which lowest
    """
    drawings = folder / "figures"
    drawings.mkdir(parents=True, exist_ok=True)
    with ink.styled():
        figures = list(_figures(results, metric, drawings))
    seeds = max((len(runs) for runs in results.values()), default=0)
    table = _table(rows, metric)
    page = Page(
        title=heading,
        eyebrow="comparison",
        summary=f"{count(len(results), 'arm')}, {count(seeds, 'seed')} each",
        verdict=verdict or _verdict(results, metric),
        tiles=_tiles(results, metric),
        tables=[table] if table.rows else [],
        figures=figures,
    )
    return publish(page, folder / "report.html")


def _figures(results: Results, metric: str, folder: Path) -> Iterator[Drawn]:
    reading = "A line is the mean of an arm over its seeds, the band its lowest to its highest seed."
    by_round = _curves(results, lambda run: series(run.records, metric), metric, last=_last(results))
    plots = [
        ("curves", f"{title(metric)} by round", reading, by_round),
        (
            "final",
            f"{title(metric)} at the end",
            "A bar is the mean of an arm, a dot one of its seeds: differences smaller than the scatter mean little.",
            _final(results, metric),
        ),
        (
            "bytes",
            "What it costs to send",
            "The further left a curve rises, the more is learned from every byte sent.",
            _cost(results, metric, "bytes", SIZES, "sent by a peer, on average"),
        ),
        (
            "clock",
            "What it costs to wait",
            "The same against simulated time.",
            _cost(results, metric, "clock", SPANS, "simulated time"),
        ),
        (
            "consensus",
            "Agreement",
            "How far the peers' models lie from their average (log scale): falling means that they agree.",
            _curves(results, lambda run: series(run.records, "consensus"), "consensus", last=_last(results)),
        ),
        (
            "alive",
            "Who is there",
            "Live peers by round.",
            _curves(results, lambda run: series(run.records, "alive"), "alive", last=_last(results)),
        ),
    ]
    for name, heading, said, figure in plots:
        if figure is not None and name != metric:
            yield Drawn(name, heading, said, ink.save(figure, name, heading, folder))


def _last(results: Results) -> int:
    return max((last_round(run.records) for runs in results.values() for run in runs), default=1)


def _look(place: int) -> dict[str, Any]:
    """Colour and dash of the arm at that place."""
    dash = ink.DASHES[place // len(ink.PALETTE) % len(ink.DASHES)]
    return {"color": ink.PALETTE[place % len(ink.PALETTE)], "linestyle": dash}


def _curves(results: Results, curve: Curve, metric: str, *, last: float = 0) -> Figure | None:
    """Mean and range over seeds of one curve a run, for every arm; over rounds when ``last`` is given."""
    figure, axes = ink.sheet(5.0, 3.4)
    log = metric == "consensus"
    step: Literal["post"] | None = "post" if metric == "alive" else None
    steps = "steps-post" if step else "default"
    drawn = False
    for place, (arm, runs) in enumerate(results.items()):
        x, table = _aligned([curve(run) for run in runs])
        if log:
            table = np.where(table > 0, table, np.nan)
        there = np.isfinite(table).any(axis=0)
        x, table = x[there], table[:, there]
        if not len(x):
            continue
        drawn, look = True, _look(place)
        if len(table) > 1:
            low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
            axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0, step=step)
        mark = ink.marker(len(x))
        name = ink.shorten(arm, 34)
        axes.plot(x, np.nanmean(table, axis=0), linewidth=1.9, label=name, marker=mark, drawstyle=steps, **look)
    if not drawn:
        return None
    axes.set_ylabel({"alive": "live peers", "consensus": "distance²"}.get(metric, metric.replace("_", " ")))
    if last:
        ink.rounds_axis(axes, last)
    if step:
        axes.set_ylim(bottom=0)
    ink.metric_axis(axes, metric, log=log)
    _legend(axes, list(results))
    return figure


def _aligned(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Curves on the union of their x values [T]: values [runs, T], straight between points, NaN outside."""
    x = np.unique(np.concatenate([curve[0] for curve in curves])) if curves else np.empty(0)
    rows = [
        np.interp(x, cx, cy, left=np.nan, right=np.nan) if len(cx) else np.full(len(x), np.nan) for cx, cy in curves
    ]
    return x, np.array(rows).reshape(len(curves), len(x))


def _cost(results: Results, metric: str, cost: str, units: tuple[tuple[float, str], ...], label: str) -> Figure | None:
    """The metric against a cumulative cost, in the unit that fits the dearest run."""

    def share(run: Result) -> int:
        return max(peer_count(run.records), 1) if cost == "bytes" else 1

    dearest = [(final(run.records, cost) or 0.0) / share(run) for runs in results.values() for run in runs]
    if metric == cost or max(dearest, default=0.0) <= 0:
        return None
    factor, unit = scale(max(dearest), units)

    def curve(run: Result) -> tuple[Array, Array]:
        x, y = paired(run.records, cost, metric)
        return x / share(run) / factor, y

    figure = _curves(results, curve, metric)
    if figure is not None:
        figure.axes[0].set_xlabel(f"{label} ({unit})")
        figure.axes[0].set_xlim(left=0)
    return figure


def _legend(axes: Axes, arms: Sequence[str]) -> None:
    longest = max((min(len(arm), 34) for arm in arms), default=0)
    ink.legend_below(axes, columns=1 if longest > 26 else 2 if longest > 14 else 3)


def _finals(runs: Sequence[Result], metric: str) -> Array:
    """Last values of the runs that have any, [at most seeds]."""
    found = [final(run.records, metric) for run in runs]
    return np.array([value for value in found if value is not None], dtype=np.float64)


def _final(results: Results, metric: str) -> Figure | None:
    """Bars of the final means, the seeds as dots."""
    values = {arm: _finals(runs, metric) for arm, runs in results.items()}
    if not any(len(v) for v in values.values()):
        return None
    figure, axes = ink.sheet(5.0, float(np.clip(0.9 + 0.42 * len(values), 3.4, 8.0)))
    for place, sample in enumerate(values.values()):
        if not len(sample):
            continue
        colour = _look(place)["color"]
        axes.barh(place, sample.mean(), height=0.5, color=colour, alpha=0.85)
        axes.scatter(
            sample,
            np.full(len(sample), place),
            s=16,
            c=ink.SURFACE,
            edgecolors=ink.INK,
            linewidths=0.8,
            zorder=3,
            clip_on=False,
        )
        axes.annotate(
            measured(metric, float(sample.mean())),
            (max(float(sample.max()), 0.0), place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=ink.INK,
        )
    axes.set_yticks(range(len(values)), [ink.shorten(arm, 26) for arm in values])
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(metric.replace("_", " "))
    if is_share(metric):
        ink.share_ticks(axes.xaxis)
    return figure


def _verdict(results: Results, metric: str) -> str:
    means = {arm: float(v.mean()) for arm, runs in results.items() if len(v := _finals(runs, metric))}
    if not means:
        return f"No run has the metric {metric}."
    high, low = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    name = metric.replace("_", " ")
    if len(means) == 1:
        return f"{high} ends with a mean {name} of {measured(metric, means[high])}."
    return (
        f"{high} ends with the highest mean {name}, {measured(metric, means[high])}; "
        f"{low} with the lowest, {measured(metric, means[low])}."
    )


def _tiles(results: Results, metric: str) -> list[Tile]:
    found: list[Tile] = []
    for arm, runs in list(results.items())[:6]:
        values = _finals(runs, metric)
        if len(values):
            spread = f"± {measured(metric, float(values.std(ddof=1)))}" if len(values) > 1 else ""
            found.append((ink.shorten(arm, 40), measured(metric, float(values.mean())), spread))
    return found


def _table(rows: Rows, metric: str) -> Table:
    told = [_comparison(row, metric) if isinstance(row, Comparison) else row for row in rows]
    columns = list(dict.fromkeys(str(name) for row in told for name in row))
    cells = [[number(row.get(name)) if name in row else "" for name in columns] for row in told]
    note = "Differences are paired by seed, against the first arm; the interval is a bootstrap of their mean."
    return Table("Final values", columns, cells, note=note if "difference" in columns else "")


def _comparison(row: Comparison, metric: str) -> dict[str, Any]:
    """A row of ``hubless compare`` as columns."""
    many = len(row.summary.values) > 1
    cells = {"arm": row.arm, "mean": measured(metric, row.summary.mean)}
    cells["spread"] = measured(metric, row.summary.spread) if many else "–"
    if row.difference is None:
        return {**cells, "difference": "", "95 % interval": ""}
    cells["difference"] = _difference(metric, row.difference.mean)
    low, high = (_difference(metric, bound) for bound in (row.difference.low, row.difference.high))
    return {**cells, "95 % interval": f"{low} to {high}" if many else "needs more seeds"}


def _difference(metric: str, value: float) -> str:
    """A signed difference; of shares in points, so that nobody takes it for a ratio."""
    said = f"{100 * value:.1f}\u00a0points" if is_share(metric) else measured(metric, value)
    return f"+{said}" if value >= 0 else said
