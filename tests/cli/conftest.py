from pathlib import Path

import pytest

from hubless.cli import main

TOY = str(Path(__file__).parent / "toy.py")


@pytest.fixture
def hubless(tmp_path, monkeypatch, capsys):
    """Runs one command line in an empty folder: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words):
        code = main([TOY if word == "TOY" else word.replace("TOY:", f"{TOY}:") for word in map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
