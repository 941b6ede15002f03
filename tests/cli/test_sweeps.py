import json
from pathlib import Path

import pytest

from hubless import lab
from hubless.cli import docs, results
from hubless.run.record import Record


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """A lab of one process: what crosses between processes is tested with the lab."""

    def run(self, cells):
        for cell in cells:
            recipe = lab.find_recipe(cell.source)
            records = [Record.parse(record.line()) for record in recipe.build(cell.options).records()]
            self.done[cell.key] = records
            if self.keep is not None:
                folder = self._kept(cell)
                folder.path.mkdir(parents=True)
                folder.records_file.write_text("".join(record.line() + "\n" for record in records))

    monkeypatch.setattr(lab.LocalLab, "_run", run)


def rows(out):
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]


def test_compare(hubless):
    words = (
        "compare",
        "TOY",
        "TOY:skill=0.9",
        "TOY:rounds=1:skill=0.2",
        "--seeds",
        "2",
        "--rounds",
        "3",
        "--seed",
        "4",
    )
    code, out, _ = hubless(*words, "--out", "here")
    assert code == 0
    assert rows(out) == [
        ["toy", "0.5", "0", "", ""],
        ["toy:skill=0.9", "0.9", "0", "+0.4", "+0.4 to +0.4"],
        ["toy:rounds=1:skill=0.2", "0.2", "0", "-0.3", "-0.3 to -0.3"],
    ]
    assert out.splitlines()[-1] == "here/report.html"
    page = Path("here/report.html").read_text()
    assert "toy:skill=0.9" in page
    assert len(list(Path("here/cells").iterdir())) == 6


def test_compare_another_metric(hubless):
    code, out, _ = hubless("compare", "TOY", "TOY:rounds=9", "--metric", "bytes", "--seeds", "1")
    assert code == 0
    assert rows(out)[1] == ["toy:rounds=9", "90", "0", "+50", "needs more seeds"]
    code, _, err = hubless("compare", "TOY", "TOY:rounds=9", "--metric", "beauty")
    assert code == 2
    assert "'beauty'" in err


def test_grid_goes_on_where_it_stopped(hubless, monkeypatch):
    code, out, err = hubless("grid", "TOY", "--skill", "0.1,0.5", "--rounds", "2,3", "--peers=7", "--out", "here")
    assert code == 0
    assert "hubless grid --resume here" in err
    expected = [["0.1", "2", "0.1", "0"], ["0.1", "3", "0.1", "0"], ["0.5", "2", "0.5", "0"], ["0.5", "3", "0.5", "0"]]
    assert rows(out) == expected
    assert len(list(Path("here/cells").iterdir())) == 4
    assert list(Path("here/figures").iterdir())
    Path("here/report.html").unlink()
    again = []
    monkeypatch.setattr(lab.LocalLab, "_run", lambda self, cells: again.extend(cells))
    assert hubless("grid", "--resume", "here")[:2] == (0, out)
    assert again == []
    assert Path("here/report.html").exists()


@pytest.mark.parametrize(
    "axes", [["--fails", "--no-fails"], ["--skill", "0,1", "--rounds", "1,2", "--mode", "up,down"]]
)
def test_grid_of_one_and_of_three_options(hubless, axes):
    code, out, _ = hubless("grid", "TOY", "--rounds=1" if len(axes) == 2 else "--peers=2", *axes, "--seeds", "2")
    assert code == 0
    assert len(rows(out)) == (2 if len(axes) == 2 else 8)


def test_a_damaged_sweep(hubless, tmp_path):
    (tmp_path / "grid.json").write_text('{"recipe": "toy"}')
    code, _, err = hubless("grid", "--resume", ".")
    assert code == 2
    assert "grid.json is damaged" in err


def test_verify(hubless):
    code, out, _ = hubless("verify", "TOY", "--seeds", "2", "--set", "seed=3", "--set", "rounds=2", "--json", "o.json")
    assert code == 0
    assert rows(out) == [["more skill, more accuracy", "obvious", "0.6 ± 0", ">= 0.3", "held"]] * 2
    told = json.loads(Path("o.json").read_text())["toy"]
    assert (told["held"], told["seeds"], told["given"]) == (True, [3, 4], {"rounds": "2"})
    assert [row["claim"] for row in told["rows"]] == ["skill pays", "skill pays twice"]
    assert told["rows"][0]["mean"] == pytest.approx(0.6)


def test_a_claim_that_fails_exits_with_1(hubless, tmp_path):
    text = Path(__file__).with_name("toy.py").read_text()
    (tmp_path / "proud.py").write_text(text.replace("gain, 0.3", "gain, 0.7").replace("def toy(", "def proud("))
    code, out, _ = hubless("verify", "./proud.py", "TOY", "--json", "o.json")
    assert code == 1
    assert "1 of 2 recipes hold; not proud" in out
    told = json.loads(Path("o.json").read_text())
    assert [told[name]["held"] for name in ("proud", "toy")] == [False, True]


def test_a_recipe_without_claims(hubless, tmp_path):
    (tmp_path / "meek.py").write_text("from hubless.recipe import recipe\n@recipe()\ndef meek(n: int = 1): ...\n")
    code, _, err = hubless("verify", "./meek.py")
    assert code == 2
    assert "meek: this recipe makes no claims" in err


def test_verify_all_and_its_table(hubless, monkeypatch, tmp_path):
    from hubless import catalogue

    toy = catalogue.Entry("toy", "learning", Path(__file__).with_name("toy.py"))
    monkeypatch.setattr(catalogue, "entries", lambda: [toy])
    monkeypatch.setattr(catalogue, "find", lambda name: toy)
    monkeypatch.setattr("hubless.lab.find_recipe", lambda source: toy.load())
    monkeypatch.setattr(docs, "folder", lambda: tmp_path / "docs")
    table = tmp_path / "results.json"
    monkeypatch.setattr(results, "FILE", table)
    monkeypatch.setattr(results.read, "__defaults__", (table,))
    monkeypatch.setattr(results.write, "__defaults__", (table,))
    code, out, _ = hubless("verify", "--all", "--update-docs", "--seeds", "1")
    assert code == 0
    assert "1 of 1 recipes hold" in out
    assert results.read()["toy"].tally == "2 of 2"
    said = (tmp_path / "docs" / "results.md").read_text()
    assert "| more skill, more accuracy | obvious | 0.6 | >= 0.3 | held |" in said
    assert "## Results" in (tmp_path / "docs" / "recipes" / "toy.md").read_text()
    assert "2 of 2" in hubless("list")[1]
    assert hubless("docs", "--check")[0] == 0


def test_results_of_other_recipes_stay(tmp_path):
    file = tmp_path / "results.json"
    old = results.Verified("old", "2026-01-02", [0], {}, [])
    results.write({"old": old}, file)
    results.write(results.read(file) | {"new": results.Verified("new", "2026-01-03", [0], {}, [])}, file)
    assert list(results.read(file)) == ["new", "old"]
    assert results.read(file)["old"] == old
