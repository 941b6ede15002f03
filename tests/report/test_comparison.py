from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from synthetic import population

from hubless.claims import Result
from hubless.report import write_comparison, write_grid
from hubless.report.comparison import _aligned
from hubless.run.record import Record
from hubless.run.statistics import compare


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\u00a0", " ")


def test_comparison(tmp_path: Path) -> None:
    arms = {
        name: [Result("dfedavg", {}, population(8, 6, seed=seed, crash=crash)) for seed in (0, 1)]
        for name, crash in (("dfedavg", 0.0), ("dfedavg:<b>", 0.5))
    }
    rows = compare(arms, "accuracy")
    page = write_comparison(tmp_path / "new", "one against two", arms, rows)
    html = text_of(page)
    assert page == tmp_path / "new" / "report.html"
    for name in ("curves", "final", "bytes", "clock", "consensus", "alive"):
        assert f'<figure id="{name}"' in html
        assert (tmp_path / "new" / "figures" / f"{name}.png").exists()
    assert rows[1].difference is not None
    assert f"{100 * rows[0].summary.mean:.1f} %" in html
    assert f"{100 * rows[1].difference.mean:+.1f} points" in html
    assert "<b>" not in html
    assert "http" not in html


def test_comparison_of_arms_without_the_metric(tmp_path: Path) -> None:
    arms = {"a": [Result("a", {}, [Record("start", 0)])]}
    html = text_of(write_comparison(tmp_path, "a", arms, [{"arm": "a", "note": 1.5}], metric="price"))
    assert "No run has the metric price" in html
    assert "<td>1.5</td>" in html


def test_seeds_that_stopped_early_do_not_count_beyond_their_end() -> None:
    x, table = _aligned([(np.array([1.0, 3.0]), np.array([1.0, 3.0])), (np.array([1.0]), np.array([5.0]))])
    assert x.tolist() == [1, 3]
    assert table[0].tolist() == [1, 3]
    assert table[1, 0] == 5
    assert np.isnan(table[1, 1])


def test_grid_with_a_third_option(tmp_path: Path) -> None:
    x, y = ["none", "sign-flip"], ["mean", "median"]
    cells = {(i, j, k): [0.1 * len(i), 0.2] for i in x for j in y for k in ("ring", "grid")}
    cells["none", "mean", "ring"] = [0.95, 0.97]
    del cells["sign-flip", "mean", "grid"]
    html = text_of(write_grid(tmp_path, "fedavg", "attack", x, "merge", y, {"accuracy": cells}, further=["topology"]))
    assert "accuracy, topology = ring" in html
    assert "accuracy, topology = grid" in html
    assert "highest accuracy is 96.0 %, with attack = none, merge = mean, topology = ring" in html
    assert html.count("<svg") == 2
    assert html.count("<tr>") == 8


def test_grid_of_one_option_and_nothing_finite(tmp_path: Path) -> None:
    cells = {(rho, ""): [math.nan] for rho in (0.0, 0.1)}
    html = text_of(write_grid(tmp_path, "dfedsam", "rho", [0.0, 0.1], "", [""], {"loss": cells}))
    assert "No run has the metric loss" in html
    assert html.count("<svg") == 1
