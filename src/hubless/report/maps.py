"""Who is where: the topology with its dead and hostile peers, and which peer holds which data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from hubless.report import ink
from hubless.report.reading import Array, Records, dead, final_peers, hostile, main_metric, peer_count, world
from hubless.report.words import is_share

MOST = 600  # peers; a larger topology is a ball of wool
BUBBLES = 64


def topology(records: Records) -> Figure | None:
    """The first round's topology, every peer coloured by its last accuracy; the dead and the hostile marked."""
    edges = world(records).get("edges")
    count = peer_count(records)
    if not edges or not 2 <= count <= MOST:
        return None
    places = _layout(edges, count)
    metric = main_metric(records) or ""
    values = final_peers(records, metric)
    gone, bad = dead(records, count), hostile(records, count)
    size = float(np.clip(5200 / count, 14, 190))
    figure, axes = ink.sheet(5.0, 4.0)
    axes.add_collection(
        LineCollection([places[list(edge)] for edge in edges], colors=ink.MUTED, alpha=0.4, linewidths=0.7, zorder=1)
    )
    here = ~gone
    if len(values) == count and np.isfinite(values[here]).any():
        shown = values[here & ~bad & np.isfinite(values)]
        shown = shown if shown.size else values[here & np.isfinite(values)]
        norm = Normalize(float(shown.min()), float(shown.max()), clip=True)
        scale = ink.SCALE if is_share(metric) else ink.SCALE.reversed()
        colours: Any = scale(norm(np.nan_to_num(values[here], nan=shown.min())))
        bar = figure.colorbar(ScalarMappable(norm, scale), ax=axes, shrink=0.6, aspect=24, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label(f"last {metric} of the honest", color=ink.MUTED)
        if is_share(metric):
            ink.share_ticks(bar.ax.yaxis)
    else:
        colours = ink.ACCENT
    x, y = places.T
    axes.scatter(x[here], y[here], s=size, c=colours, edgecolors=ink.MUTED, linewidths=0.6, zorder=2)
    if gone.any():
        axes.scatter(x[gone], y[gone], s=size, c=ink.SURFACE, edgecolors=ink.MUTED, linewidths=0.8, zorder=2)
        axes.scatter(x[gone], y[gone], s=size * 0.35, marker="x", c=ink.MUTED, linewidths=1.0, zorder=3, label="dead")
    if bad.any():
        ring: dict[str, Any] = {"facecolors": "none", "edgecolors": ink.ALARM, "linewidths": 1.5}
        axes.scatter(x[bad], y[bad], s=size * 2.1, zorder=4, label="hostile", **ring)
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.06)
    ink.legend_below(axes)
    return figure


def _layout(edges: list[list[int]], count: int) -> Array:
    """Places of the peers, [N, 2]: a circle for rings and dense graphs, else springs from a fixed start."""
    import networkx as nx

    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from((i, j) for i, j in edges)
    places: Mapping[int, Any]
    connected = nx.is_connected(graph)
    if connected and all(degree == 2 for _, degree in graph.degree()):
        places = _circle(list(nx.dfs_preorder_nodes(graph, 0)))
    elif 2 * graph.number_of_edges() > 0.4 * count * (count - 1):
        places = _circle(list(graph))
    elif connected and count <= 150:
        places = nx.kamada_kawai_layout(graph)
    else:
        places = nx.spring_layout(graph, seed=0, iterations=80)
    return np.array([places[i] for i in range(count)], dtype=np.float64)


def _circle(order: list[int]) -> dict[int, Array]:
    angles = 2 * np.pi * np.arange(len(order)) / len(order)
    return dict(zip(order, np.column_stack((np.sin(angles), np.cos(angles))), strict=True))


def partition(records: Records) -> Figure | None:
    """How many samples of every class each peer holds: bubbles, or an image when there are many peers."""
    table = _counts(world(records).get("partition"))
    if table is None:
        return None
    named = world(records).get("classes") or []
    classes = [ink.shorten(str(named[c]), 14) if c < len(named) else str(c) for c in range(table.shape[1])]
    if table.shape[0] <= BUBBLES and table.shape[1] <= 20:
        return _bubbles(table, classes)
    return _shares(table, classes, peer_count(records))


def _counts(told: Any) -> Array | None:
    rows = [row for row in told or [] if row]
    if not rows:
        return None
    table = np.zeros((len(rows), max(len(row) for row in rows)))
    for i, row in enumerate(rows):
        table[i, : len(row)] = [float(v or 0) for v in row]
    return table if table.any() else None


def _bubbles(table: Array, classes: list[str]) -> Figure:
    peers, width = table.shape
    figure, axes = ink.sheet(10.0, 1.2 + 0.24 * width)
    who, what = np.nonzero(table)
    room = min(640 / max(peers, 8), 16.0)
    axes.scatter(
        who, what, s=(room**2) * table[who, what] / table.max(), c=ink.ACCENT, alpha=0.8, linewidths=0, zorder=2
    )
    axes.set_xlim(-0.9, peers - 0.1)
    axes.set_ylim(-0.7, width - 0.3)
    axes.set_yticks(range(width), classes)
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True) if peers > 8 else FixedLocator(range(peers)))
    axes.set_xlabel(f"peer (the largest bubble is {table.max():,.0f} samples)")
    axes.set_ylabel("class")
    return figure


def _shares(table: Array, classes: list[str], peers: int) -> Figure:
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    most = share.argmax(axis=1)
    share = share[np.lexsort((-share.max(axis=1), most))]
    figure, axes = ink.sheet(10.0, min(1.4 + 0.2 * len(classes), 5.0))
    picture = axes.imshow(share.T, aspect="auto", cmap=ink.SCALE, vmin=0, interpolation="nearest", origin="lower")
    bar = figure.colorbar(picture, ax=axes, pad=0.01, aspect=24)
    bar.outline.set_visible(False)
    ink.share_ticks(bar.ax.yaxis)
    if len(classes) <= 20:
        axes.set_yticks(range(len(classes)), classes)
    axes.grid(visible=False)
    who = "peers" if peers in (0, len(table)) else "groups of peers"
    axes.set_xlabel(f"{who}, sorted by their most common class")
    axes.set_ylabel("class")
    bar.set_label("share of the peer's data", color=ink.MUTED)
    return figure
