"""Progress on the terminal: a bar for a run (a sink) and a bar over many runs (a lab)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubless.run.folder import RunFolder
from hubless.run.record import Record

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """A sink that shows rounds, time left, accuracy, bytes, peers alive and the simulated clock.

    On a terminal: a live bar with events above it. Elsewhere: at most a line every tenth of the rounds, and the
    events. On close it says how to resume an interrupted run. ``console`` defaults to standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        raise NotImplementedError

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None: ...
    def write(self, record: Record, seconds: float) -> None: ...
    def close(self, finished: bool) -> None: ...


def human_bytes(count: float) -> str:
    """A number of bytes as a person says it: 1.2 MB."""
    raise NotImplementedError
