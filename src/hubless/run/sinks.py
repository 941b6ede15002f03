"""Readers of the record stream, and those that every run has: JSON lines, metrics and timings as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any, Protocol, TextIO

from hubless.run.folder import RunFolder, replace_text
from hubless.run.record import Record


class Sink(Protocol):
    """Something that reads records as they happen.

    A run opens it once with the run's folder and config (the content of config.json; ``config["rounds"]`` is
    the number of rounds), writes every record to it, and closes it whatever happens. An error in a sink ends
    the run.
    """

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Begin; ``folder`` already holds records when a run is resumed."""

    def write(self, record: Record, seconds: float) -> None:
        """One record; ``seconds`` is the wall time of the round for a ``round`` record, 0 for another."""

    def close(self, finished: bool) -> None:
        """The run is over, or was interrupted or failed (``finished`` False)."""


class RecordFile:
    """records.jsonl: every record, on disk before the next one is made."""

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Append to what is there."""
        self._file: TextIO = folder.records_file.open("a", encoding="utf-8", newline="\n")

    def write(self, record: Record, seconds: float) -> None:
        """One line, flushed."""
        self._file.write(record.line() + "\n")
        self._file.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._file.close()


class MetricsFile:
    """metrics.csv: a row a round, a column a metric; rows of rounds without a metric leave it empty.

    A metric that first appears in a later round rewrites the file with one more column.
    """

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Begin with the rounds that are on record already."""
        self._path = folder.metrics_file
        self._columns = ["round"]
        self._rows: list[dict[str, Any]] = []
        for record in folder.records():
            self._add(record)
        self._rewrite()
        self._file: TextIO = self._path.open("a", encoding="utf-8", newline="")

    def write(self, record: Record, seconds: float) -> None:
        """The row of a round, flushed."""
        known = len(self._columns)
        if not self._add(record):
            return
        if len(self._columns) > known:
            self._file.close()
            self._rewrite()
            self._file = self._path.open("a", encoding="utf-8", newline="")
        else:
            csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n").writerow(self._rows[-1])
            self._file.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, record: Record) -> bool:
        if record.kind != "round":
            return False
        self._columns += [name for name in record.metrics if name not in self._columns]
        self._rows.append({"round": record.round, **record.metrics})
        return True

    def _rewrite(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_text(self._path, text.getvalue())


class TimingsFile:
    """timings.csv: the wall seconds of every round, kept apart because no two runs have the same."""

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Keep the rows of rounds on record, drop those that a resumed run makes again."""
        path = folder.timings_file
        rows = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        done = folder.last_round
        kept = [row for row in rows if row.partition(",")[0].isdigit() and int(row.partition(",")[0]) <= done]
        replace_text(path, "\n".join(["round,seconds", *kept]) + "\n")
        self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")

    def write(self, record: Record, seconds: float) -> None:
        """The row of a round, flushed."""
        if record.kind == "round":
            self._file.write(f"{record.round},{seconds:.6f}\n")
            self._file.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._file.close()


class Fanout:
    """Several sinks as one; every one that was opened is closed, even if another fails to."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks
        self._open: list[Sink] = []

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Open them in order."""
        for sink in self._sinks:
            sink.open(folder, config)
            self._open.append(sink)

    def write(self, record: Record, seconds: float) -> None:
        """Write to them in order."""
        for sink in self._open:
            sink.write(record, seconds)

    def close(self, finished: bool) -> None:
        """Close them in reverse order; the first error is raised when all are closed."""
        failures: list[Exception] = []
        while self._open:
            try:
                self._open.pop().close(finished)
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[0]
