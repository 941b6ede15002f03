import json
from pathlib import Path

import pytest

from hubless import __version__
from hubless.claims import at_least
from hubless.cli import results


def test_a_run_leaves_a_folder_and_says_where(hubless):
    code, out, err = hubless("run", "TOY", "--skill", "0.25", "--rounds=2", "--out", "here", "--quiet")
    assert (code, out.strip(), err) == (0, "here/report.html", "")
    config = json.loads(Path("here/config.json").read_text())
    assert config["options"]["skill"] == 0.25
    assert config["options"]["mode"] == "up"
    assert "skill" in Path("here/report.html").read_text()


def test_presets_and_progress(hubless):
    code, out, _ = hubless("run", "TOY", "--preset", "small", "--skill", "1", "--out", "here")
    assert code == 0
    assert "toy 2/2" in out
    options = json.loads(Path("here/config.json").read_text())["options"]
    assert (options["rounds"], options["mode"], options["skill"]) == (2, "down", 1.0)


def test_the_report_shows_what_was_verified(hubless, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    rows = [("skill pays", at_least("a row of the table", [0.5], 0.3))]
    monkeypatch.setattr(results, "read", lambda: {"toy": results.Verified("toy", "2026-01-02", [0], {}, rows)})
    assert hubless("run", "TOY", "--out", "here", "--quiet")[0] == 0
    assert "a row of the table" in Path("here/report.html").read_text()
    assert hubless("report", "here")[1].strip() == "here/report.html"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("run TOY --skil 1", "toy: unknown option 'skil'; did you mean 'skill'? allowed: "),
        ("run TOY --skill 2", "toy.skill = '2' must be less than or equal to 1"),
        ("run TOY --mode sideways", "toy.mode = 'sideways' must be 'up' or 'down'"),
        ("run TOY --preset tny", "toy: unknown preset 'tny'; did you mean 'tiny'?"),
        ("run TOY --faults crash:30%@20", "toy.faults: 'crash:30%@20' is not for a toy"),
        ("run TOY --track nowhere", "nowhere"),
        ("run nothing-such", "unknown recipe 'nothing-such'"),
        ("run ./nothing.py", "no recipe file './nothing.py'"),
        ("run", "run takes one recipe"),
        ("run TOY TOY", "run takes one recipe"),
        ("run --resume nowhere", "nowhere holds no run"),
        ("run TOY --resume nowhere", "--resume takes a run's folder alone"),
        ("run --out", "--out"),
        ("rnu", "unknown command 'rnu'; did you mean 'run'?"),
        ("--nonsense", "--nonsense"),
        ("show nothing-such", "unknown recipe"),
        ("report nowhere", "nowhere holds no run"),
        ("compare TOY", "compare takes two or more different arms"),
        ("compare TOY TOY", "compare takes two or more different arms"),
        ("compare TOY TOY:skill=2", "toy.skill = '2'"),
        ("compare TOY TOY:seed=2", "every arm runs on the same seeds"),
        ("compare TOY TOY:skill=1 --nope 3", "compare: unknown option 'nope'"),
        ("compare TOY TOY:skill=1 --preset nope", "no arm has a preset 'nope'"),
        ("compare TOY TOY:skill=1 --seeds 0", "--seeds"),
        ("grid TOY", "toy: no option has several values"),
        ("grid TOY --skill 0.1,2", "toy.skill = '2'"),
        ("grid TOY --seed 1,2", "seeds are repetitions"),
        ("grid --resume nowhere", "nowhere holds no sweep"),
        ("verify", "verify takes names of recipes, or --all"),
        ("verify TOY --all", "verify takes names of recipes, or --all"),
        ("verify TOY --set skil=1", "--set skil=1: no recipe has an option 'skil'; did you mean 'skill'"),
        ("verify TOY --set skill=2", "toy.skill = '2'"),
        ("verify TOY --set skill=1 --update-docs", "leave out --set"),
        ("verify TOY --json nowhere/x.json", "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(hubless, tmp_path, words, complaint):
    code, out, err = hubless(*words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_taken_folder_is_left_alone(hubless, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine").touch()
    for words in (("run", "TOY"), ("compare", "TOY", "TOY:skill=1"), ("grid", "TOY", "--skill", "0.1,0.2")):
        code, _, err = hubless(*words, "--out", "here")
        assert code == 2
        assert "here" in err
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["mine"]


def test_a_failure_keeps_its_traceback(hubless):
    with pytest.raises(RuntimeError, match=r"toy, round 2: the toy broke") as caught:
        hubless("run", "TOY", "--fails", "--quiet")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_failing_peer_exits_with_1_and_its_traceback(hubless, monkeypatch):
    from hubless.errors import PeerError
    from hubless.run import runner

    def broken(*args, **options):
        raise PeerError("loss is nan", peer=3, round=7)

    monkeypatch.setattr(runner, "run_recipe", broken)
    code, _, err = hubless("run", "TOY")
    assert code == 1
    assert "Traceback" in err
    assert "peer 3, round 7: loss is nan" in err


def test_a_peer_that_blows_up_is_one_line(hubless, monkeypatch):
    from hubless.errors import NonFiniteError
    from hubless.run import runner

    def diverging(*args, **options):
        raise NonFiniteError("loss is nan", peer=3, round=7)

    monkeypatch.setattr(runner, "run_recipe", diverging)
    code, _, err = hubless("run", "TOY")
    assert (code, err.strip()) == (2, "error: peer 3, round 7: loss is nan")


def test_interrupting_exits_with_130(hubless, monkeypatch):
    from hubless.run import runner

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_recipe", interrupted)
    assert hubless("run", "TOY")[0] == 130


def test_help(hubless):
    code, out, _ = hubless()
    assert code == 0
    assert all(verb in out for verb in ("list", "show", "run", "verify", "compare", "grid", "report", "new"))
    code, out, _ = hubless("run", "TOY", "--help")
    assert code == 0
    assert "--preset" in out
    assert "--weight-decay" in out
    assert "accuracy at the end" in out
    assert hubless("--version")[1].strip() == f"hubless {__version__}"
