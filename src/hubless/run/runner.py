"""Run a recipe into a folder, and go on with one that was stopped."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hubless import __version__
from hubless.errors import CheckpointError, NonFiniteError, PeerError
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity, digest
from hubless.run.folder import RunFolder, check_free, default_path
from hubless.run.machine import command, machine, versions
from hubless.run.record import Experiment, Record
from hubless.run.sinks import Fanout, MetricsFile, RecordFile, Sink, TimingsFile
from hubless.run.source import absolute, find_recipe, source_of
from hubless.run.stop import Stop

if TYPE_CHECKING:
    from hubless.recipe import Recipe

MOST_ON_CHECKPOINTS = 0.1  # share of the wall time, where a checkpoint is dearer than the seconds asked for


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
    checkpoint_seconds: least wall time between two checkpoints; 0 writes one after every round
    source: what finds the recipe again (a name or a path); derived from the recipe when not given

    Ctrl-C or SIGTERM ends the run after the current round, a second one at once; the folder that comes back
    then has ``finished`` False and ``exit_code`` 130. Nothing is created until the experiment is built and has
    yielded its first record. Raises ConfigError or DataError before that, NonFiniteError when a peer's numbers
    blow up, and RunFailed (with the cause) for any other error during the run.
    """
    if out is not None:
        check_free(out)
    resolved = settle(recipe, options, preset)
    experiment = recipe.build(resolved)
    with Stop() as stop:
        records = experiment.records()
        begun = time.perf_counter()
        first = next(records)
        spent = time.perf_counter() - begun
        config = {
            "recipe": recipe.name,
            "system": recipe.system,
            "summary": recipe.summary,
            "source": absolute(source) if source else source_of(recipe),
            "preset": preset,
            "options": resolved,
            "seed": resolved["seed"],
            "rounds": experiment.rounds,
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(),
            "machine": machine(),
            "command": command(),
        }
        if kernel := first.data.get("kernel"):
            config["kernel"] = kernel
        folder = RunFolder.create(out or default_path(recipe.name), config)
        run = _Run(recipe.name, experiment, folder, checkpoint_seconds, _identity(recipe, resolved), report)
        return run.go(_before(first, records), config, sinks, stop, spent)


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
    folder = RunFolder.open(run)
    config = folder.config()
    if folder.finished:
        raise CheckpointError(f"{run} is finished already; there is nothing to go on with")
    if config["versions"]["hubless"] != __version__:
        raise CheckpointError(f"{run} was made by hubless {config['versions']['hubless']}, this is {__version__}")
    recipe = recipe or find_recipe(config["source"])
    resolved = settle(recipe, config["options"])
    identity = _identity(recipe, resolved)
    snapshot = checkpoint.load(folder.checkpoint, identity)
    experiment = recipe.build(resolved)
    folder.truncate(snapshot.round)
    folder.error_file.unlink(missing_ok=True)
    config.setdefault("resumed", []).append({"after": snapshot.round, "command": command()})
    folder.write_config(config)
    with Stop() as stop:
        going = _Run(recipe.name, experiment, folder, checkpoint_seconds, identity, report)
        return going.go(experiment.records(snapshot), config, sinks, stop)


def settle(recipe: Recipe, options: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
    """All options, resolved twice: a default is taken as it stands the first time, so 512 becomes 512.0 the second.

    What comes back is the same whether the options were typed or read from a config.json.
    """
    return recipe.resolve(recipe.resolve(options, preset))


def _identity(recipe: Recipe, resolved: Mapping[str, Any]) -> Identity:
    return Identity(recipe.name, __version__, digest(resolved))


def _before(first: Record, rest: Iterator[Record]) -> Iterator[Record]:
    yield first
    yield from rest


class _Run:
    """One pass over an experiment's records, however it ends."""

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        folder: RunFolder,
        seconds: float,
        identity: Identity,
        report: bool,
    ) -> None:
        self.name = name
        self.experiment = experiment
        self.folder = folder
        self.seconds = seconds
        self.identity = identity
        self.report = report
        self.round = folder.last_round
        self.due = 0.0

    def go(
        self,
        records: Iterator[Record],
        config: dict[str, Any],
        sinks: Sequence[Sink],
        stop: Stop,
        spent: float = 0.0,
    ) -> RunFolder:
        """Write every record; leave the folder in order on success, interrupt and failure alike."""
        fan = Fanout([RecordFile(), MetricsFile(), TimingsFile(), *sinks])
        finished, failure = False, None
        try:
            fan.open(self.folder, config)
            finished = self._records(records, fan, stop, spent)
            self._keep_model()
        except KeyboardInterrupt:
            pass
        except Exception as error:
            failure = error
        try:
            fan.close(finished)
            if self.report:
                self._write_report()
        except Exception as error:
            if failure is None:
                raise
            failure.add_note(f"then closing the run failed too: {error!r}")
        if failure is not None:
            self._raise(failure)
        return self.folder

    def _records(self, records: Iterator[Record], fan: Fanout, stop: Stop, spent: float) -> bool:
        """Whether the stream came to its end; False when a stop was asked for after a round."""
        while True:
            begun = time.perf_counter()
            record = next(records, None)
            spent += time.perf_counter() - begun
            if record is None:
                return True
            if record.kind != "round":
                fan.write(record, 0.0)
                continue
            fan.write(record, spent)
            spent = 0.0
            self.round = record.round
            # The state belongs to this round only until the stream is asked for its next record.
            if stop.asked or time.perf_counter() >= self.due:
                self._checkpoint()
            if stop.asked:
                return False

    def _checkpoint(self) -> None:
        begun = time.perf_counter()
        snapshot = self.experiment.snapshot()
        if snapshot.round != self.round:
            raise CheckpointError(f"the snapshot is of round {snapshot.round}, the last record of round {self.round}")
        checkpoint.save(self.folder.checkpoint, snapshot, self.identity)
        ended = time.perf_counter()
        self.due = ended + max(self.seconds, (ended - begun) / MOST_ON_CHECKPOINTS if self.seconds else 0.0)

    def _keep_model(self) -> None:
        if tensors := self.experiment.model():
            checkpoint.save_tensors(self.folder.model, tensors)

    def _raise(self, error: Exception) -> NoReturn:
        """Keep the traceback; raise the error itself where it says all (numbers that blew up), else RunFailed."""
        self.folder.error_file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        if isinstance(error, NonFiniteError):
            raise error
        said = str(error) if isinstance(error, PeerError) else f"round {self.round + 1}: {error}"
        raise RunFailed(f"{self.name}, {said}; what the run had is in {self.folder.path}") from error

    def _write_report(self) -> None:
        import hubless.report

        hubless.report.write(self.folder.path)
