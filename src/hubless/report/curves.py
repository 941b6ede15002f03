"""What changes from round to round: accuracy, loss, agreement, traffic, time, and who is alive."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hubless.report import ink
from hubless.report.reading import (
    Array,
    Records,
    events,
    final,
    final_peers,
    hostile,
    last_round,
    main_metric,
    metric_names,
    paired,
    peer_count,
    peer_curves,
    series,
)
from hubless.report.words import SIZES, SPANS, measured, scale, title

LINES = 128  # with more peers than this, a band is clearer than a line each
DRAWN = {
    *("accuracy", "accuracy_worst", "accuracy_best", "accuracy_std", "accuracy_mean_model", "loss", "train_loss"),
    *("consensus", "alive", "trained", "bytes", "messages", "clock", "round"),
}


def mark_events(axes: Axes, records: Records, *, words: bool = False) -> None:
    """Rounds with events as vertical lines; ``words`` writes what happened beside them."""
    told: dict[int, tuple[str, str]] = {}
    for t, text, level in events(records):
        if t > 0 and (t not in told or told[t][1] == "info"):
            told[t] = (text, level)
    if len(told) > 12:
        told = {t: event for t, event in told.items() if event[1] != "info"}
    if len(told) > 24:
        return
    gap = max(last_round(records), 1) / 14
    free = -gap
    for t, (text, level) in sorted(told.items()):
        colour = ink.MUTED if level == "info" else ink.ALARM
        axes.axvline(t, color=colour, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
        if words and t - free >= gap:
            free = t
            late = t > 0.92 * last_round(records)
            axes.annotate(
                ink.shorten(text, 34),
                (t, 0.04),
                xycoords=axes.get_xaxis_transform(),
                xytext=(-3 if late else 3, 0),
                textcoords="offset points",
                rotation=90,
                ha="right" if late else "left",
                va="bottom",
                fontsize=7.5,
                color=colour,
            )


def _band(axes: Axes, rounds: Array, table: Array, colour: str = ink.ACCENT) -> None:
    """The middle half and the middle 90 % of the peers, [T, N]."""
    there = np.isfinite(table).any(axis=1)
    rounds, table = rounds[there], table[there]
    low, first, third, high = np.nanquantile(table, (0.05, 0.25, 0.75, 0.95), axis=1)
    axes.fill_between(rounds, low, high, color=colour, alpha=0.14, linewidth=0, label="middle 90 %")
    axes.fill_between(rounds, first, third, color=colour, alpha=0.24, linewidth=0, label="middle half")


def learning(records: Records) -> Figure | None:
    """The main metric of the population by round: mean, every peer (or a band of many), mean model."""
    metric = main_metric(records)
    if metric is None:
        return None
    figure, axes = ink.sheet()
    rounds, table = peer_curves(records, metric)
    bad = hostile(records, table.shape[1])
    if table.shape[1] > LINES:
        _band(axes, rounds, table[:, ~bad])
    elif table.shape[1] > 1:
        for group, colour, label in ((~bad, ink.ACCENT, "each peer"), (bad, ink.ALARM, "each hostile peer")):
            if group.any():
                lines = [np.column_stack((rounds, table[:, i])) for i in np.flatnonzero(group)]
                axes.add_collection(LineCollection(lines, colors=colour, alpha=0.25, linewidths=0.7))
                axes.plot([], [], color=colour, alpha=0.5, linewidth=0.9, label=label)
    elif peer_count(records) != 1 and len(low := series(records, f"{metric}_worst")[1]):
        t, high = series(records, f"{metric}_best")
        if len(low) == len(high):
            axes.fill_between(t, low, high, color=ink.ACCENT, alpha=0.14, linewidth=0, label="worst to best peer")
    t, mean = series(records, metric)
    axes.plot(t, mean, color=ink.ACCENT, linewidth=2.2, label="mean", marker=ink.marker(len(t)))
    t, model = series(records, f"{metric}_mean_model")
    if len(t) and peer_count(records) != 1:
        axes.plot(t, model, color=ink.INK, linewidth=1.2, linestyle=ink.DASHES[1], label="averaged model")
    axes.autoscale_view()
    axes.set_ylabel(f"test {metric}" if metric != "train_loss" else "training loss")
    return _finish(figure, axes, records, metric)


def spread(records: Records) -> Figure | None:
    """Worst, quartiles and best of the live, honest peers by round, and a histogram of the last values."""
    metric = main_metric(records)
    if metric is None:
        return None
    rounds, table = peer_curves(records, metric)
    table = table[:, ~hostile(records, table.shape[1])]
    there = np.isfinite(table).any(axis=1)
    rounds, table = rounds[there], table[there]
    if table.shape[1] < 2 or not len(rounds):
        return None
    figure = Figure(figsize=(5.0, 3.1), layout="constrained")
    axes, side = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    worst, first, middle, third, best = np.nanquantile(table, (0, 0.25, 0.5, 0.75, 1), axis=1)
    axes.fill_between(rounds, worst, best, color=ink.ACCENT, alpha=0.12, linewidth=0, label="worst to best")
    axes.fill_between(rounds, first, third, color=ink.ACCENT, alpha=0.3, linewidth=0, label="middle half")
    axes.plot(rounds, middle, color=ink.ACCENT, linewidth=1.6, label="median", marker=ink.marker(len(rounds)))
    last = table[-1][np.isfinite(table[-1])]
    side.hist(last, bins=min(20, max(5, len(last) // 3)), orientation="horizontal", color=ink.ACCENT, alpha=0.75)
    side.set_xlabel("peers")
    side.xaxis.set_major_locator(MaxNLocator(3, integer=True, prune="lower"))
    side.grid(visible=False)
    axes.set_ylabel(f"test {metric}" if metric != "train_loss" else "training loss")
    return _finish(figure, axes, records, metric)


def loss(records: Records) -> Figure | None:
    """Test and training loss by round; left out where the learning curve shows the same."""
    shown = [name for name in ("loss", "train_loss") if len(series(records, name)[0])]
    if not shown or main_metric(records) == shown[-1]:
        return None
    figure, axes = ink.sheet()
    for name, colour in zip(("loss", "train_loss"), (ink.ACCENT, ink.PALETTE[1]), strict=True):
        t, values = series(records, name)
        if len(t):
            label = "test" if name == "loss" else "training"
            axes.plot(t, values, color=colour, linewidth=1.8, label=label, marker=ink.marker(len(t)))
    axes.set_ylabel("loss")
    return _finish(figure, axes, records, "loss")


def consensus(records: Records) -> Figure | None:
    """Mean squared distance to the average model by round, log scale; every peer's in the background."""
    t, values = series(records, "consensus")
    if not (values > 0).any():
        return None
    figure, axes = ink.sheet()
    rounds, table = peer_curves(records, "consensus")
    if table.shape[1] > 1:
        good = table[:, ~hostile(records, table.shape[1])]
        _band(axes, rounds, np.where(good > 0, good, np.nan))
    t, values = t[values > 0], values[values > 0]
    axes.plot(t, values, color=ink.ACCENT, linewidth=2.2, label="mean", marker=ink.marker(len(t)))
    axes.set_ylabel("distance²")
    return _finish(figure, axes, records, "consensus", log=True)


def by_bytes(records: Records) -> Figure | None:
    """The main metric against the bytes that an average peer has sent."""
    return _against(records, "bytes", SIZES, "sent by a peer, on average", max(peer_count(records), 1))


def by_clock(records: Records) -> Figure | None:
    """The main metric against simulated wall-clock time."""
    return _against(records, "clock", SPANS, "simulated time", 1)


def _against(
    records: Records, cost: str, units: tuple[tuple[float, str], ...], label: str, share: int
) -> Figure | None:
    metric = main_metric(records)
    x, y = paired(records, cost, metric) if metric else (np.empty(0), np.empty(0))
    if metric is None or not len(x) or x.max() <= 0:
        return None
    factor, unit = scale(float(x.max()) / share, units)
    figure, axes = ink.sheet()
    axes.plot(x / share / factor, y, color=ink.ACCENT, linewidth=2.0, marker=ink.marker(len(x)))
    axes.set_xlabel(f"{label} ({unit})")
    axes.set_xlim(left=0)
    axes.set_ylabel(f"test {metric}" if metric != "train_loss" else "training loss")
    ink.metric_axis(axes, metric)
    return figure


def traffic(records: Records) -> Figure | None:
    """Bytes sent by every peer over the whole run, busiest first."""
    sent = final_peers(records, "bytes")
    sent = np.sort(sent[np.isfinite(sent)])[::-1]
    if len(sent) < 2 or sent[0] <= 0:
        return None
    factor, unit = scale(float(sent[0]), SIZES)
    figure, axes = ink.sheet()
    axes.fill_between(np.arange(len(sent) + 1), np.append(sent, sent[-1]) / factor, step="post", color=ink.ACCENT)
    axes.axhline(sent.mean() / factor, color=ink.INK, linewidth=1.0, linestyle=ink.DASHES[1], label="mean")
    axes.set_xlim(0, len(sent))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("peers, busiest first")
    axes.set_ylabel(f"sent ({unit})")
    ink.legend_below(axes)
    return figure


def alive(records: Records) -> Figure | None:
    """Peers alive and peers that trained by round, with what happened written beside it."""
    t, values = series(records, "alive")
    if not len(t):
        return None
    figure, axes = ink.sheet(5.0, 4.0)
    axes.step(t, values, where="post", color=ink.ACCENT, linewidth=2.0, label="alive", marker=ink.marker(len(t)))
    rounds, trained = series(records, "trained")
    if len(rounds) and not np.array_equal(trained, values):
        axes.step(rounds, trained, where="post", color=ink.PALETTE[1], linewidth=1.2, label="trained in the round")
    axes.set_ylim(0, max(peer_count(records), values.max(), 1) * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("peers")
    ink.rounds_axis(axes, last_round(records))
    mark_events(axes, records, words=True)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        ink.legend_below(axes)
    return figure


def unknown_metrics(records: Records) -> list[str]:
    """Metrics that no other plot shows and that say something: neither absent nor always 0."""
    return [name for name in metric_names(records) if name not in DRAWN and series(records, name)[1].any()]


def small(records: Records, metric: str) -> Figure | None:
    """One metric by round."""
    t, values = series(records, metric)
    if not len(t):
        return None
    figure, axes = ink.sheet(3.5, 2.0)
    axes.plot(t, values, color=ink.ACCENT, linewidth=1.6, marker=ink.marker(len(t)))
    last = final(records, metric)
    if last is not None:
        axes.set_title(f"last: {measured(metric, last)}", loc="right", fontsize=8.5, color=ink.MUTED)
    axes.set_ylabel(ink.shorten(title(metric), 24))
    return _finish(figure, axes, records, metric)


def _finish(figure: Figure, axes: Axes, records: Records, metric: str, *, log: bool = False) -> Figure:
    ink.rounds_axis(axes, last_round(records))
    ink.metric_axis(axes, metric, log=log)
    mark_events(axes, records)
    ink.legend_below(axes, columns=4)
    return figure
