"""The folder that a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubless.run.record import Record


class RunFolder:
    """One run on disk: paths of its files, and readers of those that a person or a report needs.

    Attributes (paths): path, config_file, records_file, metrics_file, timings_file, checkpoint, figures,
    report, model, error_file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @staticmethod
    def open(path: Path | str) -> RunFolder:
        """The folder of an existing run. Raises DataError when there is no run at that place."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """config.json: recipe, source, preset, options, seed, rounds, versions, machine, command, kernel, ..."""
        raise NotImplementedError

    def records(self) -> list[Record]:
        """The whole records so far; a last line that was cut off by a kill is left out."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether the run came to its ``end`` record."""
        raise NotImplementedError

    @property
    def last_round(self) -> int:
        """The last round on record; 0 before the first."""
        raise NotImplementedError

    @property
    def exit_code(self) -> int:
        """What a command that made this run exits with: 0 when finished, 130 when interrupted."""
        raise NotImplementedError
