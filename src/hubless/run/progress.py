"""Progress on the terminal: a bar for a run (a sink) and a bar over many runs (a lab)."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from hubless.run.folder import RunFolder
from hubless.run.record import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar


class Progress:
    """A sink that shows rounds, time left, accuracy, privacy, bytes, peers alive and the simulated clock.

    On a terminal: a live bar with events above it. Elsewhere: at most a line every tenth of the rounds, and the
    events. On close it says how to resume an interrupted run. ``console`` defaults to standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Begin, at the last finished round when the run is resumed."""
        self._folder, self._rounds = folder, int(config["rounds"])
        self._peers = next((r.data.get("peers") for r in folder.records() if r.kind == "start"), None)
        self._round = folder.last_round
        self._seen: dict[str, float] = {}
        self._lines = Lines(str(config["recipe"]), self._rounds, self._round, self._console)
        self._lines.__enter__()

    def write(self, record: Record, seconds: float) -> None:
        """Move the bar for a round, print a line for an event."""
        if record.kind == "start":
            self._peers = record.data.get("peers")
        elif record.kind == "event":
            self._lines.say(f"round {record.round}: {record.data.get('text', '')}", str(record.data.get("level", "")))
        elif record.kind == "round":
            self._round = record.round
            self._seen |= record.metrics
            self._lines.advance(self._text())
        elif record.kind == "end" and record.data.get("text"):
            self._lines.say(str(record.data["text"]))

    def close(self, finished: bool) -> None:
        """Take the bar away; for a run that did not finish, say how to go on."""
        self._lines.__exit__(None, None, None)
        if finished:
            return
        self._lines.say(f"ended after round {self._round} of {self._rounds}")
        if (self._folder.checkpoint / "state.json").is_file():
            self._lines.say(f"go on with: hubless run --resume {self._folder.path}")

    def _text(self) -> str:
        seen = self._seen
        words = [f"{name} {seen[name]:.3f}" for name in ("accuracy", "loss") if name in seen][:1]
        if "epsilon" in seen:
            words.append(f"epsilon {seen['epsilon']:.3g}")
        if "bytes" in seen:
            words.append(human_bytes(seen["bytes"]))
        if "alive" in seen:
            words.append(f"{seen['alive']:.0f}{f'/{self._peers}' if self._peers else ''} alive")
        if "clock" in seen:
            words.append(f"clock {human_seconds(seen['clock'])}")
        return "  ".join(words)


class Lines:
    """A bar over ``total`` steps on a terminal; elsewhere a line at most every tenth of them. A context manager."""

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console()
        self._title, self._total, self._done = title, total, done
        self._bar: Bar | None = None

    def __enter__(self) -> Lines:
        if self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._bar = Bar(*columns, console=self._console)
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, text="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, text: str) -> None:
        """One step further; ``text`` tells how things stand."""
        tenth = self._done * 10 // max(self._total, 1)
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif self._done * 10 // max(self._total, 1) > tenth:
            self.say(f"{self._title} {self._done}/{self._total}  {text}")

    def say(self, text: str, level: str = "info") -> None:
        """A line above the bar."""
        style = {"warning": "yellow", "error": "red"}.get(level)
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def human_bytes(count: float) -> str:
    """A number of bytes as a person says it: 1.2 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"


def human_seconds(seconds: float) -> str:
    """A span of time as a person says it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
