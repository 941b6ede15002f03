from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from synthetic import CONFIG, Save, population

from hubless.errors import DataError
from hubless.report import figures
from hubless.report.page import wall_time, write
from hubless.run.record import Record


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\u00a0", " ")


def tile(html: str, label: str) -> str:
    found = re.search(rf"<dt>{label}</dt><dd>([^<]*)</dd>", html)
    assert found, f"no tile {label}"
    return found[1]


def test_a_whole_run(save: Save) -> None:
    records = population()
    claims = [
        {
            "statement": "one merge suffices",
            "values": [0.4, 0.6],
            "threshold": ">= 0.3",
            "held": True,
            "paper": "Fig. 1",
        },
        {"statement": "it is fast", "values": [9.0], "threshold": "<= 1", "held": False, "unit": "s"},
    ]
    run = save(records, claims=claims)
    page = write(run)
    html = text_of(page)
    last = records[-1].metrics

    assert page == run / "report.html"
    assert page.stat().st_size < 2_000_000
    assert tile(html, "Final accuracy") == f"{100 * last['accuracy']:.1f} %"
    assert tile(html, "Worst peer") == f"{100 * last['accuracy_worst']:.1f} %"
    assert tile(html, "Rounds") == "60"
    assert tile(html, "Sent by a peer") == f"{last['bytes'] / 64 / 1e6:.3g} MB"
    assert tile(html, "Simulated time") == "24 s"
    assert tile(html, "Wall time") == "30 s"
    assert tile(html, "Peers alive") == "45"
    assert "64 peers, no server: mean accuracy" in html
    assert "At round 30: 19 of 64 peers crashed." in html
    assert "6 of the peers are hostile." in html
    assert "system 49" in html
    assert "0.5 ± 0.14" in html
    assert '<tr class="failed">' in html
    assert "hubless run single-merge --faults crash:30%@30" in html
    assert "<dt>Seed</dt><dd>7</dd>" in html
    assert "torch 2.13.0" in html
    for plot in figures.PLOTS:
        assert f'<figure id="{plot.name}"' in html
        assert (run / "figures" / f"{plot.name}.png").stat().st_size > 1000
    assert '<figure id="metric-grad-norm"' in html


def test_the_page_loads_nothing(save: Save) -> None:
    html = text_of(write(save(population(12, 6))))
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    assert set(re.findall(r'(?:src|href)="([^"#:]*:)', html)) <= {"data:"}


def test_ids_are_unique_and_every_reference_is_met(save: Save) -> None:
    html = text_of(write(save(population(12, 6))))
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html)) <= set(ids)


def test_the_same_run_gives_the_same_page(save: Save) -> None:
    run = save(population(12, 5))
    assert write(run).read_bytes() == write(run).read_bytes()


def test_hostile_text_is_escaped(save: Save) -> None:
    evil = "<script>alert('$x_{')</script> & \"quotes\" 日本 $\\frac{"
    records = population(8, 6)
    records[0].data["names"]["data"] = evil
    records[0].data["classes"][0] = evil
    records.insert(3, Record("event", 2, data={"text": evil, "level": "warning"}))
    drawn = {"name": evil, "title": evil, "type": "bars", "labels": [evil], "groups": {evil: [1.0]}, "ylabel": evil}
    records.insert(4, Record("figure", 2, data=drawn))
    config = {**CONFIG, "recipe": evil, "options": {evil: evil}, "command": evil, "versions": {evil: evil}}
    html = text_of(write(save(records, config, claims=[{"statement": evil, "values": [1.0], "held": True}])))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_an_interrupted_run_of_one_round(save: Save) -> None:
    records = population(10, 1, crash=0)[:-1]
    run = save(records)
    with (run / "records.jsonl").open("a") as file:
        file.write('{"kind":"rou')
    html = text_of(write(run))
    assert "interrupted after round 1" in html
    assert tile(html, "Rounds") == "1"
    assert 'id="learning-curve"' in html


def test_a_failed_run_says_why(save: Save) -> None:
    run = save(population(10, 3)[:-1])
    (run / "error.txt").write_text("Traceback ...\nNonFiniteError: peer 3, round 4: loss is nan\n")
    html = text_of(write(run))
    assert "failed after round 3: NonFiniteError: peer 3, round 4" in html
    assert "Why it stopped" in html


def test_one_peer(save: Save) -> None:
    html = text_of(write(save(population(1, 4, crash=0, bad=0))))
    assert "One peer, alone" in html
    assert "Worst peer" not in html
    assert 'id="spread"' not in html
    assert 'id="topology"' not in html


def test_metrics_that_are_no_numbers(save: Save) -> None:
    metrics = {"accuracy": math.nan, "loss": math.nan, "consensus": math.nan, "bytes": 0.0}
    records = [
        Record("start", 0, data={"peers": 3}),
        Record("round", 1, metrics, {"accuracy": [None, None, None]}),
        Record("end", 1, metrics, data={"finished": False}),
    ]
    html = text_of(write(save(records)))
    assert "no accuracy that is a number" in html
    assert "did not finish" in html
    assert "<svg" not in html


def test_five_thousand_peers_without_values_of_their_own(save: Save) -> None:
    records = population(600, 4, single=False)
    records[0].data["peers"] = 5000
    html = text_of(write(save(records)))
    assert "5,000 peers" in html
    assert "groups of peers" in html
    assert "worst to best peer" in html
    assert 'id="topology"' not in html
    assert 'id="spread"' not in html


def test_a_recipe_that_does_not_learn(save: Save) -> None:
    rounds = [Record("round", t, {"price": 0.3 * t, "hits": 0.0}) for t in range(1, 9)]
    end = Record("end", 8, {"price": 2.5}, data={"finished": True, "text": "The price settled at 2.5."})
    html = text_of(write(save([Record("start", 0), *rounds, end], {})))
    assert "The price settled at 2.5." in html
    assert tile(html, "Price") == "2.5"
    assert 'id="metric-price"' in html
    assert 'id="metric-hits"' not in html
    assert 'id="learning-curve"' not in html


def test_nothing_measured_yet(save: Save) -> None:
    assert "Nothing has been measured" in text_of(write(save([Record("start", 0, data={"peers": 4})])))


def test_no_records_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no records"):
        write(tmp_path)


def test_damaged_claims_are_an_error(save: Save) -> None:
    run = save(population(6, 2))
    (run / "claims.json").write_text("[{")
    with pytest.raises(DataError, match=r"claims\.json is damaged"):
        write(run)


def test_wall_time_leaves_out_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "timings.csv"
    assert wall_time(file) is None
    file.write_text("round,seconds\n1,0.5\n2,1.25\n3\n")
    assert wall_time(file) == 1.75


def test_the_package_imports_no_matplotlib() -> None:
    import subprocess
    import sys

    code = "import sys, hubless.report; print('matplotlib' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


def test_config_survives_the_options_of_a_run(save: Save) -> None:
    config = json.loads(json.dumps({**CONFIG, "options": {"faults": "", "peers": 5000, "rates": [0.1, 1.0]}}))
    html = text_of(write(save(population(6, 2), config)))
    assert "<dt>peers</dt><dd>5000</dd>" in html
    assert "<dt>rates</dt><dd>0.1,1.0</dd>" in html


def staged(last: int) -> list[Record]:
    records = [Record("start", 0, data={"peers": 60, "stages": ["A: reach", "B: find", "C: other"]})]
    found: list[dict[str, float]] = [{"direct_share": 0.683, "pairs": 3540}, {"found_share": 1.0, "rounds_most": 3}, {}]
    for t, metrics in enumerate(found[:last], start=1):
        records.append(Record("round", t, metrics))
    ends = {name: value for metrics in found[:last] for name, value in metrics.items()}
    return [*records, Record("end", last, ends, data={"finished": True})]


def test_a_run_of_stages_speaks_of_stages_and_gets_a_table(save: Save) -> None:
    html = text_of(write(save(staged(3))))
    assert "All 3 stages ran." in html
    assert tile(html, "Direct share") == "68.3 %"
    assert tile(html, "Found share") == "100.0 %"
    assert tile(html, "Stages") == "3"
    assert "<dt>Rounds</dt>" not in html
    assert "What the stages found" in html
    assert "<td>B: find</td><td>Rounds most</td><td>3</td>" in html
    assert "Other measurements" not in html  # curves of one point each


def test_a_run_of_stages_that_stopped_says_after_which(save: Save) -> None:
    html = text_of(write(save(staged(1)[:-1])))
    assert "1 of 3 stages ran. The run was interrupted after stage 1;" in html
    assert re.search(r"<dd>1</dd><dd class=\"remark\">of 3 planned</dd>", html)
