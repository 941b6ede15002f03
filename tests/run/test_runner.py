import csv
import json
import os
import signal
from pathlib import Path

import pytest
import walk as stand_in
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from walk import walk

import hubless
from hubless.errors import CheckpointError, ConfigError, DataError, NonFiniteError, PeerError
from hubless.run import runner
from hubless.run.folder import RunFolder
from hubless.run.record import Record
from hubless.run.runner import RunFailed


def go(out: Path, checkpoint_seconds: float = 0, sinks=(), **options) -> RunFolder:
    return runner.run_recipe(walk, options, out=out, report=False, checkpoint_seconds=checkpoint_seconds, sinks=sinks)


def resume(run: Path) -> RunFolder:
    return runner.resume(run, report=False, checkpoint_seconds=0)


class AfterRound:
    """A sink that acts after a round."""

    def __init__(self, round: int, act) -> None:
        self.round, self.act, self.finished = round, act, None

    def open(self, folder: RunFolder, config: dict) -> None:
        self.config = config

    def write(self, record: Record, seconds: float) -> None:
        if (record.kind, record.round) == ("round", self.round):
            self.act()

    def close(self, finished: bool) -> None:
        self.finished = finished


def test_a_run_leaves_its_config_records_metrics_and_timings(tmp_path: Path):
    folder = go(tmp_path / "a", rounds=5, seed=7)
    assert (folder.finished, folder.exit_code, folder.last_round) == (True, 0, 5)
    config = folder.config()
    assert (config["recipe"], config["rounds"], config["seed"], config["kernel"]) == ("walk", 5, 7, "steps")
    assert config["options"]["peers"] == 3
    assert config["versions"]["hubless"] == hubless.__version__
    kinds = [record.kind for record in folder.records()]
    assert kinds == ["start", "round", "round", "round", "event", "round", "round", "end"]
    with folder.metrics_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [bool(row["spread"]) for row in rows] == [False, False, True, True, True]
    assert float(rows[4]["spread"]) == folder.records()[-2].metrics["spread"]
    assert len(folder.timings_file.read_text().splitlines()) == 6


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path):
    one, two, other = (
        go(tmp_path / name, seed=seed).records_file.read_bytes() for name, seed in zip("abc", (3, 3, 4), strict=True)
    )
    assert one == two
    assert one != other


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("seconds", [0, 1e9])
def test_an_interrupt_inside_a_round_and_resuming_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: bool, seconds: float
):
    whole = go(tmp_path / "whole", tensors=tensors)
    monkeypatch.setitem(stand_in.hurdles, 9, KeyboardInterrupt())
    broken = go(tmp_path / "broken", seconds, tensors=tensors)
    assert (broken.finished, broken.exit_code, broken.last_round) == (False, 130, 8)
    stand_in.hurdles.clear()
    again = resume(broken.path)
    assert again.finished
    assert again.records_file.read_bytes() == whole.records_file.read_bytes()
    assert again.metrics_file.read_bytes() == whole.metrics_file.read_bytes()
    assert [line.split(",")[0] for line in again.timings_file.read_text().splitlines()[1:]] == [
        str(t) for t in range(1, 13)
    ]
    assert again.config()["resumed"][0]["after"] == (8 if seconds == 0 else 1)
    assert again.model.exists() == tensors


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(2, 12), max_size=3, unique=True), seed=st.integers(0, 99))
def test_any_number_of_interrupts_change_nothing(tmp_path_factory, stops: list[int], seed: int):
    home = tmp_path_factory.mktemp("runs")
    whole = go(home / "whole", seed=seed)
    folder = None
    for stop in sorted(stops):
        stand_in.hurdles[stop] = KeyboardInterrupt()
        folder = resume(folder.path) if folder else go(home / "broken", seed=seed)
        stand_in.hurdles.clear()
        assert not folder.finished
    folder = resume(folder.path) if folder else go(home / "broken", seed=seed)
    assert folder.records_file.read_bytes() == whole.records_file.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_round(tmp_path: Path, number: int):
    before = signal.getsignal(number)
    sink = AfterRound(5, lambda: os.kill(os.getpid(), number))
    folder = go(tmp_path / "a", 1e9, [sink])
    assert (folder.exit_code, folder.last_round, sink.finished) == (130, 5, False)
    assert signal.getsignal(number) is before
    assert json.loads((folder.checkpoint / "state.json").read_text())["round"] == 5
    assert resume(folder.path).records_file.read_bytes() == go(tmp_path / "b").records_file.read_bytes()


def test_a_kill_in_the_middle_of_a_line_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stand_in.hurdles, 6, KeyboardInterrupt())
    folder = go(tmp_path / "a")
    with folder.records_file.open("a") as file:
        file.write('{"kind":"round","rou')
    assert folder.last_round == 5
    stand_in.hurdles.clear()
    assert resume(folder.path).records_file.read_bytes() == go(tmp_path / "b").records_file.read_bytes()


def test_a_failing_peer_is_named_and_the_folder_keeps_what_there_was(tmp_path: Path):
    with pytest.raises(RunFailed, match=r"walk, peer 0, round 6: fell over") as caught:
        go(tmp_path / "a", fail=6)
    assert isinstance(caught.value.__cause__, PeerError)
    folder = RunFolder.open(tmp_path / "a")
    assert (folder.finished, folder.last_round) == (False, 5)
    assert "fell over" in folder.error_file.read_text()
    assert "walk.py" in folder.error_file.read_text()


def test_an_error_of_any_kind_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stand_in.hurdles, 3, ZeroDivisionError("over zero"))
    with pytest.raises(RunFailed, match="walk, round 3: over zero") as caught:
        go(tmp_path / "a")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    stand_in.hurdles.clear()
    stand_in.hurdles[3] = ValueError("once more")
    with pytest.raises(RunFailed, match="walk, round 3: once more"):
        resume(tmp_path / "a")
    stand_in.hurdles.clear()
    again = resume(tmp_path / "a")
    assert again.finished
    assert not again.error_file.exists()


def test_numbers_that_blow_up_are_a_deliberate_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stand_in.hurdles, 3, NonFiniteError("loss is nan", peer=1, round=3))
    with pytest.raises(NonFiniteError, match="peer 1, round 3: loss is nan"):
        go(tmp_path / "a")


def test_bad_options_create_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for options in ({"step": -1}, {"stepp": 1}, {"step": 101}):
        with pytest.raises(ConfigError, match="walk"):
            runner.run_recipe(walk, options, report=False)
    monkeypatch.setattr(stand_in.Walk, "records", lambda self, resume=None: iter(_no_data()))
    with pytest.raises(DataError, match="offline"):
        runner.run_recipe(walk, {}, report=False)
    assert list(tmp_path.iterdir()) == []


def _no_data():
    raise DataError("offline")
    yield


def test_a_folder_in_use_is_refused(tmp_path: Path):
    go(tmp_path / "a", rounds=1)
    with pytest.raises(ConfigError, match="exists already"):
        go(tmp_path / "a", rounds=1)


def test_folders_of_the_same_second_get_different_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    paths = {runner.run_recipe(walk, {"rounds": 1}, report=False).path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.name.startswith("walk-") and path.parent == Path("runs") for path in paths)


def test_resume_refuses_what_it_cannot_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DataError, match="holds no run"):
        resume(tmp_path)
    finished = go(tmp_path / "finished", rounds=2)
    with pytest.raises(CheckpointError, match="finished already"):
        resume(finished.path)
    monkeypatch.setitem(stand_in.hurdles, 1, KeyboardInterrupt())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        resume(go(tmp_path / "early").path)
    stand_in.hurdles.clear()
    monkeypatch.setitem(stand_in.hurdles, 4, KeyboardInterrupt())
    folder = go(tmp_path / "stopped")
    before = folder.records_file.read_bytes()
    config = folder.config()
    folder.write_config({**config, "options": {**config["options"], "step": 2.0}})
    with pytest.raises(CheckpointError, match="options is"):
        resume(folder.path)
    folder.write_config({**config, "versions": {**config["versions"], "hubless": "0.0.1"}})
    with pytest.raises(CheckpointError, match=r"0\.0\.1"):
        resume(folder.path)
    assert folder.records_file.read_bytes() == before


def test_the_report_is_written_however_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []
    monkeypatch.setattr("hubless.report.write", written.append, raising=False)
    runner.run_recipe(walk, {"rounds": 1}, out=tmp_path / "a")
    with pytest.raises(RunFailed):
        runner.run_recipe(walk, {"fail": 2}, out=tmp_path / "b")
    assert written == [tmp_path / "a", tmp_path / "b"]


def test_a_failing_report_does_not_hide_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(path: Path) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("hubless.report.write", broken, raising=False)
    with pytest.raises(ValueError, match="no ink"):
        runner.run_recipe(walk, {"rounds": 1}, out=tmp_path / "a")
    with pytest.raises(RunFailed, match="fell over") as caught:
        runner.run_recipe(walk, {"fail": 2}, out=tmp_path / "b")
    assert "no ink" in caught.value.__cause__.__notes__[0]
