"""Arrays out of records, whatever is missing in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.run.record import Record

Array = NDArray[np.float64]
Records = Sequence[Record]


def world(records: Records) -> dict[str, Any]:
    """What the ``start`` record tells of the world; empty when there is none."""
    return next((r.data for r in records if r.kind == "start"), {})


def ending(records: Records) -> Record | None:
    """The ``end`` record; None for an interrupted run."""
    return next((r for r in reversed(records) if r.kind == "end"), None)


def last_round(records: Records) -> int:
    """The last round that ended."""
    return max((r.round for r in records), default=0)


def stages(records: Records) -> list[str]:
    """The stages of a run that does not learn round by round, one a round; none of any other."""
    told = world(records).get("stages")
    return [str(name) for name in told] if isinstance(told, list) else []


def series(records: Records, metric: str) -> tuple[Array, Array]:
    """Rounds and values of a metric, both [T]; rounds where it is absent or not finite are left out."""
    found = {r.round: r.metrics[metric] for r in records if r.kind == "round" and metric in r.metrics}
    pairs = [(t, float(v)) for t, v in sorted(found.items()) if v is not None and math.isfinite(v)]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def paired(records: Records, x: str, y: str) -> tuple[Array, Array]:
    """Two metrics at the rounds that have both, each [T]."""
    rounds_x, values_x = series(records, x)
    rounds_y, values_y = series(records, y)
    _, at_x, at_y = np.intersect1d(rounds_x, rounds_y, return_indices=True)
    return values_x[at_x], values_y[at_y]


def final(records: Records, metric: str) -> float | None:
    """The last finite value of a metric, the end's own included; None when there is none."""
    for record in reversed(records):
        value = record.metrics.get(metric)
        if value is not None and math.isfinite(value):
            return float(value)
    return None


def matrix(records: Records, name: str) -> tuple[Array, Array]:
    """Rounds [T] and per-peer values [T, N]; NaN where a peer has none."""
    rows = {r.round: r.peers[name] for r in records if r.kind == "round" and r.peers.get(name)}
    rounds = sorted(rows)
    width = max((len(row) for row in rows.values()), default=0)
    table = np.full((len(rounds), width), np.nan)
    for t, at in enumerate(rounds):
        table[t, : len(rows[at])] = floats(rows[at])
    return np.array(rounds, dtype=np.float64), table


def floats(values: Sequence[Any]) -> Array:
    """Values as floats, None as NaN."""
    return np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)


def peer_curves(records: Records, name: str) -> tuple[Array, Array]:
    """``matrix`` with the values of dead peers removed: what a crashed peer last knew is no news."""
    rounds, table = matrix(records, name)
    alive = dict(zip(*matrix(records, "alive"), strict=True))
    for row, t in enumerate(rounds):
        here = alive.get(t)
        if here is not None and here.shape == table[row].shape:
            table[row, here == 0] = np.nan
    return rounds, table


def final_peers(records: Records, name: str) -> Array:
    """Last per-peer values [N] of that name; empty when there are none."""
    rows = (r.peers[name] for r in reversed(records) if r.peers.get(name))
    return floats(next(rows, []))


def peer_count(records: Records) -> int:
    """Number of peers, from the start or else from the widest per-peer values; 0 when unknown."""
    told = world(records).get("peers")
    if isinstance(told, int):
        return told
    return max((len(row) for r in records for row in r.peers.values()), default=0)


def hostile(records: Records, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` peers are hostile, [count]."""
    mask = np.zeros(count, dtype=bool)
    ids = [i for i in world(records).get("hostile") or [] if isinstance(i, int) and 0 <= i < count]
    mask[ids] = True
    return mask


def dead(records: Records, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` peers are not alive at the end, [count]."""
    last = final_peers(records, "alive")
    return last == 0 if len(last) == count else np.zeros(count, dtype=bool)


def events(records: Records) -> list[tuple[int, str, str]]:
    """Round, text and level of every event, in order."""
    return [
        (r.round, str(r.data.get("text", "")), str(r.data.get("level", "info"))) for r in records if r.kind == "event"
    ]


def main_metric(records: Records) -> str | None:
    """What the run is judged by: accuracy, else loss, else nothing."""
    return next((name for name in ("accuracy", "loss", "train_loss") if len(series(records, name)[0])), None)


def metric_names(records: Records) -> list[str]:
    """Every metric of the rounds, in the order of appearance."""
    return list(dict.fromkeys(name for r in records if r.kind == "round" for name in r.metrics))
