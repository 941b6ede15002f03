import io
from pathlib import Path

import pytest
import walk as stand_in
from rich.console import Console
from walk import walk

from hubless.run import runner
from hubless.run.progress import Progress, human_bytes, human_seconds


def shown(out: Path, terminal: bool = False, **options) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    runner.run_recipe(walk, options, out=out, report=False, checkpoint_seconds=0, sinks=[Progress(console)])
    return text.getvalue()


def test_away_from_a_terminal_ten_lines_are_the_most(tmp_path: Path):
    lines = shown(tmp_path / "a", rounds=200).splitlines()
    rounds = [line for line in lines if line.startswith("walk ")]
    assert len(rounds) == 10
    assert rounds[-1].startswith("walk 200/200  accuracy 0.")
    assert "200.0 MB" in rounds[-1]


def test_a_short_run_shows_each_round_and_events(tmp_path: Path):
    lines = shown(tmp_path / "a", rounds=4).splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "walk 1/4",
        "walk 2/4",
        "walk 3/4",
        "round 4: round 4 is a multiple of four",
        "walk 4/4",
    ]


def test_a_terminal_gets_a_bar(tmp_path: Path):
    text = shown(tmp_path / "a", terminal=True, rounds=4)
    assert "━" in text
    assert "4/4" in text


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(stand_in.hurdles, 3, KeyboardInterrupt())
    lines = shown(tmp_path / "a", rounds=4).splitlines()
    assert lines[-2:] == ["ended after round 2 of 4", f"go on with: hubless run --resume {tmp_path / 'a'}"]


def test_numbers_are_said_as_people_do():
    assert [human_bytes(n) for n in (0, 999, 1000, 999_960, 1.5e9, 3e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.0 MB",
        "1.5 GB",
        "3.0 PB",
    ]
    assert [human_seconds(n) for n in (0, 59.94, 200, 7500)] == ["0.0 s", "59.9 s", "3 min 20 s", "2 h 5 min"]
