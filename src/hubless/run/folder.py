"""The folder that a run leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from hubless.errors import CheckpointError, ConfigError, DataError
from hubless.run.record import Record


class RunFolder:
    """One run on disk: the paths of its files, and readers of those that a person or a report needs."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.records_file = self.path / "records.jsonl"
        self.metrics_file = self.path / "metrics.csv"
        self.timings_file = self.path / "timings.csv"
        self.checkpoint = self.path / "checkpoint"
        self.figures = self.path / "figures"
        self.report = self.path / "report.html"
        self.model = self.path / "model.safetensors"
        self.error_file = self.path / "error.txt"

    @staticmethod
    def create(path: Path, config: dict[str, Any]) -> RunFolder:
        """A new folder with its config.json. Raises ConfigError when something is there already."""
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
        folder.write_config(config)
        return folder

    @staticmethod
    def open(path: Path | str) -> RunFolder:
        """The folder of an existing run. Raises DataError when there is no run at that place."""
        folder = RunFolder(path)
        if not folder.config_file.is_file():
            raise DataError(f"{path} holds no run (there is no config.json)")
        return folder

    def config(self) -> dict[str, Any]:
        """config.json: recipe, source, preset, options, rounds, seed, versions, machine, command, kernel, ..."""
        try:
            body = json.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{self.config_file} is damaged: {error}") from None
        if not isinstance(body, dict):
            raise DataError(f"{self.config_file} is damaged: not an object")
        return body

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace config.json in one step."""
        replace_text(self.config_file, json.dumps(config, indent=2, ensure_ascii=False, default=str) + "\n")

    def lines(self) -> Iterator[str]:
        """The whole lines of records.jsonl; one that a kill cut off is left out."""
        if self.records_file.is_file():
            with self.records_file.open(encoding="utf-8", newline="\n") as file:
                yield from (line[:-1] for line in file if line.endswith("\n"))

    def records(self) -> list[Record]:
        """The whole records so far."""
        return [Record.parse(line) for line in self.lines()]

    @property
    def finished(self) -> bool:
        """Whether the run came to its ``end`` record."""
        last = None
        for last in self.lines():  # noqa: B007
            pass
        return last is not None and Record.parse(last).kind == "end"

    @property
    def last_round(self) -> int:
        """The last finished round on record; 0 before the first."""
        return max((record.round for record in self.records() if record.kind == "round"), default=0)

    @property
    def exit_code(self) -> int:
        """What a command that made this run exits with: 0 when finished, 130 when interrupted."""
        return 0 if self.finished else 130

    def truncate(self, round: int) -> None:
        """Cut the records after the one of ``round``. Raises CheckpointError when it is not there."""
        if not self.records_file.is_file():
            raise CheckpointError(f"{self.path}: the checkpoint is of round {round}, but there are no records")
        with self.records_file.open("rb+") as file:
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):
                    break
                record = Record.parse(line.decode())
                if record.kind == "round" and record.round == round:
                    file.truncate(file.tell())
                    return
        raise CheckpointError(f"{self.path}: the checkpoint is of round {round}, which the records do not reach")


def check_free(path: Path) -> None:
    """Raises ConfigError unless a run can be written to ``path``: nothing there, or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"out = {str(path)!r} exists already and is not an empty folder")


def default_path(recipe: str, home: Path = Path("runs")) -> Path:
    """A free path runs/<recipe>-<YYYYmmdd-HHMMSS>[-k], claimed by making the folder."""
    name = f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    for k in count(1):
        path = home / (name if k == 1 else f"{name}-{k}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() has no end")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, sees the old text or the new and nothing between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)
