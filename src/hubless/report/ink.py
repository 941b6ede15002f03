"""How figures look, and how they become SVG for the page and PNG for the folder.

Figures are drawn with the colours below. In the page's SVG each becomes a CSS variable, so that one
drawing reads well on a light and on a dark page; text stays text, in the page's own font.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from hubless.report.words import is_share

INK = "#1d2430"
MUTED = "#667180"
GRID = "#e4e7eb"
SURFACE = "#fefefd"
ACCENT = "#2563c4"
ALARM = "#c8402f"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", SURFACE: "surface", ACCENT: "accent", ALARM: "alarm"}
PALETTE = (ACCENT, "#d98324", "#2f9e77", "#8b5fbf", "#c2477f", "#6f8190", "#a58d1c", "#35a3c4", "#8a5a3c", "#5566d6")
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)))
SCALE = LinearSegmentedColormap.from_list("hubless", ("#eef2f8", "#a9c3ec", "#4d86d9", "#1f52a8", "#0f2a5c"))

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "figure.facecolor": "none",
    "svg.fonttype": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in the house style; the caller's own settings come back afterwards."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def sheet(width: float = 5.0, height: float = 3.1) -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def rounds_axis(axes: Axes, last: float) -> None:
    """Whole rounds from 0 on the x axis."""
    axes.set_xlabel("round")
    axes.set_xlim(0, max(last, 1) + max(0.01 * last, 0.3 if last < 5 else 0.0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def metric_axis(axes: Axes, metric: str, *, log: bool = False) -> None:
    """Ticks of the y axis in the metric's own unit."""
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        subs = (1.0,) if high > 300 * max(low, 1e-300) else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(10, subs=subs, numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    elif is_share(metric):
        share_ticks(axes.yaxis)


def share_ticks(axis: Axis) -> None:
    """Ticks in per cent for values from 0 to 1."""
    axis.set_major_formatter(PercentFormatter(1, symbol="\u00a0%"))


def legend_below(axes: Axes, columns: int = 3) -> None:
    """A legend under the axes, when there is something to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if handles and axes.figure is not None:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def marker(points: int) -> str:
    """A line of one or two points needs markers to be seen."""
    return "o" if points < 3 else ""


def shorten(text: str, most: int) -> str:
    """The text in one line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def save(figure: Figure, name: str, label: str, folder: Path | None) -> str:
    """The figure as SVG to put inline; also as ``folder/name.png`` when a folder is given."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    # The canvases are used directly: Figure.savefig would draw everything once more to lay it out again.
    buffer = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    with matplotlib.rc_context({"svg.hashsalt": name}):
        canvas.print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    if folder is not None:
        figure.set_facecolor("white")
        figure.set_dpi(144)
        canvas = FigureCanvasAgg(figure)
        canvas.print_png(folder / f"{name}.png")
    return inline(buffer.getvalue(), name, label)


def inline(svg: str, name: str, label: str) -> str:
    """Stand-alone SVG text as an element of a page: no name spaces, no fixed size, no ids that may clash."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', head)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body)
    view = box[1] if box else "0 0 360 223"
    return f'<svg viewBox="{view}" role="img" aria-label="{html.escape(label)}">{body.strip()}'
