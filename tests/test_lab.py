import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from hubless.errors import ConfigError
from hubless.lab import LocalLab
from hubless.run import runner
from hubless.run.runner import RunFailed
from hubless.run.source import find_recipe, source_of

WALK = str(Path(__file__).parent / "run" / "walk.py")


def make(given=None, seeds=(1, 2), **options) -> LocalLab:
    return LocalLab(WALK, seeds, given, jobs=1, console=Console(file=io.StringIO()), **options)


@pytest.fixture(scope="module")
def lab() -> Iterator[LocalLab]:
    with make({"rounds": 3}) as lab:
        yield lab


def test_results_come_by_arm_in_the_order_of_the_seeds(lab: LocalLab, tmp_path: Path):
    results = lab.runs(near={"step": 0.5}, far={"step": 2.0, "rounds": 4})
    assert [r.options["seed"] for r in results["near"]] == [1, 2]
    assert len(results["near"][0].series("accuracy")) == 3
    assert len(results["far"][0].series("accuracy")) == 4
    folder = runner.run_recipe(
        find_recipe(WALK), {"step": 0.5, "rounds": 3, "seed": 2}, out=tmp_path / "a", report=False
    )
    assert results["near"][1].records == folder.records()


def test_asking_twice_costs_once(lab: LocalLab):
    first = lab.runs(a={"step": 3.0}, same={"step": 3})
    again = lab.runs(b={"step": 3.0})
    assert first["a"][0].records is again["b"][0].records
    assert first["a"][0].records is first["same"][0].records


def test_a_failing_run_shows_the_workers_traceback(lab: LocalLab):
    with pytest.raises(RunFailed, match=r"arm 'bad' \(walk\), seed 1 failed:\nTraceback") as caught:
        lab.runs(bad={"fail": 2})
    assert "raise PeerError" in str(caught.value)
    assert "peer 0, round 2: fell over" in str(caught.value)
    assert len(lab.runs(good={"step": 1.5})["good"]) == 2


def test_what_a_recipe_refuses_is_one_line(lab: LocalLab):
    with pytest.raises(ConfigError, match=r"^arm 'bad' \(walk\), seed 1: walk.step = 101.0 is too far$"):
        lab.runs(bad={"step": 101})
    with pytest.raises(ConfigError, match="must be greater than 0"):
        lab.runs(bad={"step": -1})


def test_options_that_no_arm_has_are_refused():
    with make({"sptep": 2}) as lab, pytest.raises(ConfigError, match="did you mean 'step'"):
        lab.runs(a={})
    with pytest.raises(ConfigError, match="must be greater than 0"):
        make({"step": -1})
    with pytest.raises(ConfigError, match="seed"):
        make({"seed": 3})
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        make(preset="tny")


def test_a_preset_lies_under_what_is_given():
    with make(preset="tiny", seeds=[0]) as lab:
        assert [len(r.series("accuracy")) for r in lab.runs(a={}, b={"rounds": 1})["a"]] == [2]


def test_kept_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with make({"rounds": 2}, keep=tmp_path) as lab:
        before = lab.runs(a={}, b={"step": 2})
    assert len(list(tmp_path.glob("cells/*/records.jsonl"))) == 4
    with make({"rounds": 2}, keep=tmp_path) as lab:
        monkeypatch.setattr(lab, "_workers", lambda: pytest.fail("a kept run was run again"))
        after = lab.runs(a={}, b={"step": 2})
    assert after == before


def test_a_source_finds_its_recipe_again():
    by_path = find_recipe(WALK)
    assert source_of(by_path) == WALK
    with pytest.raises(ConfigError, match="cannot be imported"):
        find_recipe("hubless.nowhere:walk")
    with pytest.raises(ConfigError, match="not a recipe"):
        find_recipe("hubless.errors:ConfigError")
