"""Every plot of a run's page, in the order of the page.

A plot is a function from records to a figure, or to None when the records lack what it shows. To add one,
write the function and give it a line in ``PLOTS``. Recipes need no plot of their own here: a ``figure``
record is drawn by its type (``report.recorded``), and a metric that nobody knows gets a small curve.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hubless.report import curves, ink, maps, recorded
from hubless.report.reading import Records, stages
from hubless.report.words import measured, number, title


@dataclass(frozen=True)
class Plot:
    """A plot of the page: ``draw`` makes it, ``reading`` says in one sentence how to read it."""

    name: str
    title: str
    reading: str
    draw: Callable[[Records], Figure | None]
    wide: bool = False


@dataclass(frozen=True)
class Drawn:
    """A figure of the page: inline SVG, or a table, or a note when it cannot be drawn."""

    name: str
    title: str
    reading: str = ""
    svg: str = ""
    wide: bool = False
    small: bool = False
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


PLOTS: tuple[Plot, ...] = (
    Plot(
        "learning-curve",
        "Learning",
        "The bold line is the mean over live, honest peers, each faint line (or the shaded band) is the peers "
        "themselves: the closer they lie, the less it matters which peer you ask. Dashed verticals are events.",
        curves.learning,
    ),
    Plot(
        "spread",
        "Who is left behind",
        "The dark band holds the middle half of the live, honest peers, the light one all of them; "
        "the bars count the peers at their last value.",
        curves.spread,
    ),
    Plot(
        "topology",
        "Who talks to whom",
        "A dot is a peer and a line a link of the first round; the darker the dot, the better the peer ended.",
        maps.topology,
    ),
    Plot(
        "alive",
        "Who is there",
        "The number of live peers at the end of every round; the verticals say what happened.",
        curves.alive,
    ),
    Plot(
        "partition",
        "Who holds which data",
        "A column is a peer, a row a class: where a column has few marks, the peer has never seen most classes.",
        maps.partition,
        wide=True,
    ),
    Plot(
        "consensus",
        "Agreement",
        "How far the peers' models lie from their average (mean squared distance, log scale): "
        "falling means that the population agrees.",
        curves.consensus,
    ),
    Plot("loss", "Loss", "Lower is better; a test loss that rises while training falls is overfitting.", curves.loss),
    Plot(
        "bytes",
        "What it costs to send",
        "The further left the curve rises, the more is learned from every byte sent.",
        curves.by_bytes,
    ),
    Plot(
        "clock",
        "What it costs to wait",
        "The same against simulated time, which comes from message sizes, latency and bandwidth.",
        curves.by_clock,
    ),
    Plot(
        "traffic",
        "Who carries the traffic",
        "Bytes sent by every peer in the whole run: flat means shared work, a cliff on the left means a bottleneck.",
        curves.traffic,
    ),
)


def figures(records: Records, folder: Path | None = None) -> Iterator[Drawn]:
    """All figures that the records allow; each is also saved as ``folder/NAME.png`` when a folder is given."""
    with ink.styled():
        for plot in PLOTS:
            figure = plot.draw(records)
            if figure is not None:
                svg = ink.save(figure, plot.name, plot.title, folder)
                yield Drawn(plot.name, plot.title, plot.reading, svg, wide=plot.wide)
        yield from _recorded(records, folder)
        if named := stages(records):
            yield _staged(records, named)
            return
        for metric in curves.unknown_metrics(records):
            figure, name = curves.small(records, metric), f"metric-{kebab(metric)}"
            if figure is not None:
                yield Drawn(name, title(metric), svg=ink.save(figure, name, title(metric), folder), small=True)


def _staged(records: Records, named: Sequence[str]) -> Drawn:
    """A table in place of curves that would have one point each."""
    rows = tuple(
        (named[r.round - 1], title(metric), measured(metric, value))
        for r in records
        if r.kind == "round"
        for metric, value in r.metrics.items()
    )
    return Drawn("stages", "What the stages found", columns=("stage", "measured", "value"), rows=rows, wide=True)


def _recorded(records: Records, folder: Path | None) -> Iterator[Drawn]:
    """The figures that the records describe; one drawn again under the same name replaces the earlier."""
    told: dict[str, dict[str, Any]] = {}
    for i, record in enumerate(records):
        if record.kind == "figure":
            told[kebab(str(record.data.get("name", f"figure-{i}")))] = record.data
    taken = {plot.name for plot in PLOTS}
    for told_name, data in told.items():
        name = f"{told_name}-2" if told_name in taken else told_name
        heading, reading = str(data.get("title") or title(name)), str(data.get("reading", ""))
        try:
            if data.get("type") == "table":
                rows = tuple(tuple(number(cell) for cell in row) for row in data["rows"])
                yield Drawn(name, heading, reading, columns=tuple(str(c) for c in data["columns"]), rows=rows)
            else:
                wide = data.get("type") == "heatmap" and len(data["x"]) > recorded.NARROW
                yield Drawn(name, heading, reading, ink.save(recorded.draw(data), name, heading, folder), wide=wide)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            yield Drawn(name, heading, f"This figure's record cannot be drawn: {error!r}")


def kebab(text: str) -> str:
    """Text as a name for a file or an element."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "figure"
