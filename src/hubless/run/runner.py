"""Run a recipe into a folder, and go on with one that was stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubless.run.folder import RunFolder
from hubless.run.sinks import Sink

if TYPE_CHECKING:
    from hubless.recipe import Recipe


class RunFailed(RuntimeError):
    """A run that broke in the middle; its cause is the true error, its text names recipe, round and folder.

    No HublessError: the command line lets it through, so its whole traceback is shown and the exit code is 1.
    """


def run_recipe(
    recipe: Recipe,
    options: Mapping[str, Any],
    *,
    preset: str | None = None,
    out: Path | None = None,
    sinks: Sequence[Sink] = (),
    checkpoint_seconds: float = 10.0,
    source: str | None = None,
    report: bool = True,
) -> RunFolder:
    """Build the experiment, run it and write its folder; JSON lines, CSV and checkpoints are always written.

    out:    the run folder itself, which must not exist yet or be empty; by default runs/<recipe>-<time>
    sinks:  further readers: ``Progress()``, ``*trackers("tensorboard")``
    source: what ``catalogue.find`` takes to find the recipe again (a name or a path); derived when not given

    Ctrl-C or SIGTERM ends the run after the current round, a second one at once; the folder that comes back
    then has ``finished`` False and ``exit_code`` 130. Nothing is created until the experiment is built and has
    yielded its first record. Raises ConfigError or DataError before that, NonFiniteError when a peer's numbers
    blow up, and RunFailed (with the cause) for any other error during the run.
    """
    raise NotImplementedError


def resume(
    run: Path,
    *,
    sinks: Sequence[Sink] = (),
    recipe: Recipe | None = None,
    checkpoint_seconds: float = 10.0,
    report: bool = True,
) -> RunFolder:
    """Go on after the last checkpoint of ``run``; the records become those of the uninterrupted run, bit for bit.

    recipe: found by config.json's ``source`` unless given

    Raises DataError when ``run`` is no run, CheckpointError when it is finished already, has no checkpoint, or
    has one of another recipe, version or options; otherwise as ``run_recipe``.
    """
    raise NotImplementedError
