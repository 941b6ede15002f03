from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import population

from hubless.report import curves, ink, maps, recorded
from hubless.report.figures import PLOTS, figures
from hubless.report.reading import dead, final, hostile, peer_curves, series
from hubless.run.record import Record

DATA: list[dict[str, Any]] = [
    {"type": "heatmap", "x": ["a", "b"], "y": ["c"], "values": [[0.1, None]], "unit": "accuracy"},
    {"type": "lines", "x": [1, 2], "lines": {"a": [1, None], "b": [2, 3]}, "xlabel": "x", "ylabel": "y", "log": True},
    {"type": "bars", "labels": ["a" * 40] * 9, "groups": {"g": [1] * 9}, "ylabel": "loss"},
    {"type": "images", "images": [[[0, 1], [0.5, None]]] * 3, "captions": ["one"]},
]


def test_every_plot_is_silent_without_its_data() -> None:
    empty = [Record("start", 0), Record("round", 1), Record("end", 1)]
    assert all(plot.draw(empty) is None for plot in PLOTS)
    assert len({plot.name for plot in PLOTS}) == len(PLOTS)


@pytest.mark.parametrize(
    ("plot", "metric"),
    [("consensus", "consensus"), ("bytes", "bytes"), ("clock", "clock"), ("alive", "alive"), ("loss", "loss")],
)
def test_a_plot_goes_with_its_metric(plot: str, metric: str) -> None:
    records = population(8, 4)
    draw = next(p.draw for p in PLOTS if p.name == plot)
    assert draw(records) is not None
    for record in records:
        for name in (metric, "train_loss"):
            record.metrics.pop(name, None)
    assert draw(records) is None


def test_dead_peers_leave_the_curves_and_hostile_ones_the_spread() -> None:
    records = population(20, 10)
    rounds, table = peer_curves(records, "accuracy")
    gone = dead(records, 20)
    assert gone.sum() == 6
    assert np.isnan(table[rounds >= 5][:, gone]).all()
    assert np.isfinite(table[rounds < 5]).all()
    figure = curves.spread(records)
    assert figure is not None
    assert sum(bar.get_width() for bar in figure.axes[1].patches) == (~gone & ~hostile(records, 20)).sum()


def test_events_are_marked_with_their_words() -> None:
    figure = curves.alive(population(20, 10))
    assert figure is not None
    assert [text.get_text() for text in figure.axes[0].texts] == ["6 of 20 peers crashed"]


def test_topology_marks_the_dead_and_the_hostile() -> None:
    with ink.styled():
        figure = maps.topology(population(20, 10))
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dead", "hostile"]
    assert maps.topology(population(601, 1, single=False)) is None


def test_a_ring_is_drawn_as_a_circle_in_its_own_order() -> None:
    order = [0, 3, 1, 4, 2, 5]
    edges = [[order[i], order[(i + 1) % 6]] for i in range(6)]
    places = maps._layout(edges, 6)
    sides = [np.linalg.norm(places[i] - places[j]) for i, j in edges]
    assert np.allclose(np.linalg.norm(places, axis=1), 1)
    assert np.allclose(sides, sides[0])


def test_a_disconnected_topology_has_a_place_for_every_peer() -> None:
    assert np.isfinite(maps._layout([[0, 1], [2, 3]], 5)).all()


@pytest.mark.parametrize("data", DATA, ids=lambda data: data["type"])
def test_recorded_figures(data: dict[str, Any]) -> None:
    (drawn,) = figures([Record("figure", 1, data={"name": "My Own", "title": "Mine", **data})])
    assert (drawn.name, drawn.title) == ("my-own", "Mine")
    assert drawn.svg.startswith("<svg viewBox=")


def test_a_recorded_table_and_a_later_one_of_the_same_name() -> None:
    rows: list[list[Any]] = [[[1, 0.5]], [[2, None]]]
    records = [
        Record("figure", t, data={"name": "t", "type": "table", "columns": ["peer", "x"], "rows": rows[t]})
        for t in (0, 1)
    ]
    (drawn,) = figures(records)
    assert drawn.rows == (("2", "–"),)


@pytest.mark.parametrize(
    "data",
    [
        {"type": "pie"},
        {"type": "lines", "x": [1], "lines": {"a": [1, 2]}},
        {"type": "images", "images": []},
        {"type": "heatmap"},
        {"type": "heatmap", "x": ["a"], "y": ["b"], "values": [["text"]]},
        {"type": "table", "columns": None, "rows": []},
    ],
)
def test_a_figure_that_cannot_be_drawn_says_so(data: dict[str, Any]) -> None:
    (drawn,) = figures([Record("figure", 1, data={"name": "bad", **data})])
    assert "cannot be drawn" in drawn.reading
    assert not drawn.svg


def test_an_unknown_type_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="allowed: heatmap, lines, bars, images, table"):
        recorded.draw({"type": "pie"})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True)), max_size=12))
def test_series_holds_finite_values_only(values: list[float | None]) -> None:
    told = [{} if v is None else {"x": v} for v in values]
    records = [Record("round", t + 1, metrics) for t, metrics in enumerate(told)]
    finite = [(t + 1, v) for t, v in enumerate(values) if v is not None and math.isfinite(v)]
    rounds, found = series(records, "x")
    assert list(zip(rounds, found, strict=True)) == finite
    assert final(records, "x") == (finite[-1][1] if finite else None)
