"""Readers of the record stream, and the two that every run has: JSON lines and CSV."""

from __future__ import annotations

from typing import Any, Protocol

from hubless.run.folder import RunFolder
from hubless.run.record import Record


class Sink(Protocol):
    """Something that reads records as they happen.

    A run opens it once with the run's folder and config (the content of config.json; ``config["rounds"]`` is
    the number of rounds), writes every record to it, and closes it whatever happens.
    """

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Begin; ``folder`` already holds records when a run is resumed."""

    def write(self, record: Record, seconds: float) -> None:
        """One record; ``seconds`` is the wall time of the round for a ``round`` record, 0 for another."""

    def close(self, finished: bool) -> None:
        """The run is over, or was interrupted or failed (``finished`` False)."""
