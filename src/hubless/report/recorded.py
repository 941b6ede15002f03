"""Figures that a recipe describes in its own records, drawn by type.

    heatmap  x (labels), y (labels), values [[...]] (a row for each y), unit
    lines    x [..], lines {label: [..]}, xlabel, ylabel, log (bool)
    bars     labels [..], groups {label: [..]}, ylabel
    images   images [[[0..1 grey]]] (a list of H x W), captions [..]
    table    columns [..], rows [[..]]     (becomes a table of the page)

A number may be null where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hubless.report import ink
from hubless.report.reading import Array, floats
from hubless.report.words import is_share, number, percent

Data = Mapping[str, Any]
IMAGES = 40


def draw(data: Data) -> Figure:
    """The figure of a record's data. Raises ValueError, KeyError or TypeError when the data makes no figure."""
    kind = str(data.get("type"))
    if kind not in DRAW:
        raise ValueError(f"unknown type of figure {kind!r}; allowed: {', '.join(DRAW)}, table")
    return DRAW[kind](data)


NARROW = 5  # columns of a heat map that fit half a page


def heatmap(data: Data) -> Figure:
    """A coloured cell for every pair of labels, with its value where there is room."""
    values = np.array([floats(row) for row in data["values"]]).reshape(len(data["y"]), len(data["x"]))
    return heat(list(data["x"]), list(data["y"]), values, unit=str(data.get("unit", "")))


def heat(
    x: Sequence[Any],
    y: Sequence[Any],
    values: Array,
    *,
    unit: str = "",
    xlabel: str = "",
    ylabel: str = "",
    spread: Array | None = None,
    bounds: tuple[float, float] | None = None,
) -> Figure:
    """A heat map of ``values`` [len(y), len(x)]; ``spread`` is written small under each value."""
    rows, columns = values.shape
    roomy = rows * columns <= 150 and columns <= 12
    height = 0.2 if not roomy else 0.36 if spread is None else 0.46
    figure, axes = ink.sheet(5.0 if columns <= NARROW else 10.0, float(np.clip(1.3 + height * rows, 2.2, 6.5)))
    seen = values[np.isfinite(values)]
    low, high = bounds or ((float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0))
    norm = Normalize(low, high if high > low else low + 1)
    picture = axes.imshow(values, aspect="auto", cmap=ink.SCALE, norm=norm, interpolation="nearest")
    say = percent if is_share(unit) else number
    if roomy:
        for i, j in zip(*np.nonzero(np.isfinite(values)), strict=True):
            text = say(float(values[i, j]))
            if spread is not None and spread[i, j] > 0:
                text += f"\n± {say(float(spread[i, j]))}"
            dark = norm(values[i, j]) > 0.5
            colour = "#ffffff" if dark else "#172033"
            axes.text(j, i, text, ha="center", va="center", fontsize=8 if columns <= 8 else 7, color=colour)
    bar = figure.colorbar(picture, ax=axes, pad=0.02, aspect=24)
    bar.outline.set_visible(False)
    if is_share(unit):
        ink.share_ticks(bar.ax.yaxis)
    elif unit:
        bar.set_label(unit, color=ink.MUTED)
    _labels(axes, [str(label) for label in x], "x")
    _labels(axes, [str(label) for label in y], "y")
    axes.grid(visible=False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure


def lines(data: Data) -> Figure:
    """Lines over one x axis."""
    x = floats(data["x"])
    figure, axes = ink.sheet()
    for i, (label, values) in enumerate(data["lines"].items()):
        y = floats(values)
        if y.shape != x.shape:
            raise ValueError(f"line {label!r} has {len(y)} values for {len(x)} places")
        colour, dash = ink.PALETTE[i % len(ink.PALETTE)], ink.DASHES[i // len(ink.PALETTE) % len(ink.DASHES)]
        name = ink.shorten(str(label), 30)
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=1.8, label=name, marker=ink.marker(len(x)))
    axes.set_xlabel(str(data.get("xlabel", "")))
    axes.set_ylabel(str(data.get("ylabel", "")))
    ink.metric_axis(axes, str(data.get("ylabel", "")), log=bool(data.get("log")))
    if len(data["lines"]) > 1:
        ink.legend_below(axes)
    return figure


def bars(data: Data) -> Figure:
    """Groups of bars beside each other."""
    labels, groups = [str(label) for label in data["labels"]], data["groups"]
    figure, axes = ink.sheet()
    width = 0.8 / max(len(groups), 1)
    for i, (label, values) in enumerate(groups.items()):
        places = np.arange(len(labels)) + (i - (len(groups) - 1) / 2) * width
        colour = ink.PALETTE[i % len(ink.PALETTE)]
        axes.bar(places, floats(values), width * 0.92, color=colour, label=ink.shorten(str(label), 30))
    _labels(axes, labels, "x")
    axes.set_ylabel(str(data.get("ylabel", "")))
    ink.metric_axis(axes, str(data.get("ylabel", "")))
    axes.grid(visible=False, axis="x")
    if len(groups) > 1:
        ink.legend_below(axes)
    return figure


def images(data: Data) -> Figure:
    """Small grey images with captions, at most ``IMAGES`` of them."""
    pictures = [np.array([floats(row) for row in picture]) for picture in data["images"][:IMAGES]]
    captions = [ink.shorten(str(text), 16) for text in data.get("captions", [])]
    if not pictures:
        raise ValueError("no images")
    columns = min(8, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(5.0, 0.85 * rows * max(1.0, 5 / columns) ** 0.6), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if i < len(pictures):
            axes.imshow(pictures[i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if i < len(captions):
            axes.set_title(captions[i], fontsize=7.5, color=ink.MUTED)
    return figure


def _labels(axes: Axes, labels: list[str], which: str) -> None:
    """Ticks with labels, thinned and turned so that they do not overlap."""
    step = -(-len(labels) // 24)
    places = list(range(0, len(labels), step))
    shown = [ink.shorten(labels[i], 22) for i in places]
    if which == "y":
        axes.set_yticks(places, shown)
        return
    crowded = sum(len(text) + 2 for text in shown) > 52
    axes.set_xticks(places, shown, rotation=35 if crowded else 0, ha="right" if crowded else "center")


DRAW: dict[str, Callable[[Data], Figure]] = {"heatmap": heatmap, "lines": lines, "bars": bars, "images": images}
