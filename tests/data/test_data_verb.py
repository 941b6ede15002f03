from __future__ import annotations

from pathlib import Path

import pytest

from hubless.cli.data import get, list_data, show
from hubless.errors import ConfigError


def test_list_says_what_is_here(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    list_data()
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert lines["mnist"] == "no"
    assert lines["digits"] == "yes"
    assert lines["hf:NAME"] == "no"
    assert lines["cache:"] == str(cache)


def test_get_fetches_in_order(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get(["digits", "synthetic:samples=100"])
    assert capsys.readouterr().out.splitlines() == [
        "digits: 1,438 training and 359 test samples",
        "synthetic:samples=100: 80 training and 20 test samples",
    ]


def test_get_refuses_a_wrong_name_before_any_download(cache: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mnist'"):
        get(["digits", "minst"])
    assert not cache.exists()


def test_show_counts_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    show("synthetic:samples=100:classes=2")
    said = capsys.readouterr().out
    assert "classification, 2 outputs" in said
    assert "x [80, 8] float32" in said
    assert said.splitlines()[-1].split() == ["1", "40", "10"]
