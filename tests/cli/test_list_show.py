import json
import math

import pytest

from hubless import catalogue
from hubless.claims import at_least, reported
from hubless.cli import results
from hubless.errors import DataError


def test_list_names_every_recipe(hubless):
    code, out, _ = hubless("list")
    assert code == 0
    assert all(entry.name in out for entry in catalogue.entries())


def test_show_has_all_that_the_signature_says(hubless, monkeypatch):
    code, out, _ = hubless("show", "TOY")
    assert code == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in out.splitlines() if line.strip()}
    assert lines["--skill"] == "--skill 0.5 number >= 0, <= 1 accuracy at the end"
    assert lines["--mode"].startswith("--mode up one of up, down")
    assert lines["--seed"].startswith("--seed 5 integer seed of everything random")
    assert lines["tiny"] == "tiny --rounds 1 --skill 0.25"
    assert "skill pays (paper: Table 1)" in out
    assert "not verified yet" in out
    rows = [
        ("skill pays", at_least("it pays", [0.2, 0.4], 1)),
        ("skill pays", reported("by the way", [3.0], unit="kB")),
    ]
    monkeypatch.setattr(results, "read", lambda: {"toy": results.Verified("toy", "2026-01-02", [0, 1], {}, rows)})
    _, out, _ = hubless("show", "TOY")
    assert "last verified 2026-01-02 on 2 seeds: 0 of 1 statements held" in out
    assert "FAILED   it pays: 0.3 ± 0.14" in out
    assert "reported by the way: 3 kB" in out


def test_the_results_table_survives_its_file(tmp_path):
    rows = [("a", at_least("b", [0.2, 0.4], 0.1, paper="c | d", unit="%")), ("a", reported("e", [1.0, math.inf]))]
    table = {name: results.Verified(name, "2026-01-02", [0, 1], {}, rows) for name in ("toy", "boy")}
    file = tmp_path / "results.json"
    results.write(table, file)
    assert list(results.read(file)) == ["boy", "toy"]
    read = results.read(file)["toy"]
    assert read.rows[0] == rows[0]
    assert (read.date, read.seeds, read.tally, read.held) == ("2026-01-02", [0, 1], "1 of 1", True)
    assert results.measured(rows[0][1]) == "0.3 ± 0.14%"
    assert results.measured(rows[1][1]) == "not finite"
    json.loads(file.read_text(), parse_constant=pytest.fail)
    assert results.read(tmp_path / "nothing.json") == {}
    (tmp_path / "broken.json").write_text('{"toy": {}}')
    with pytest.raises(DataError, match="no results table"):
        results.read(tmp_path / "broken.json")
