"""The lab of claims, comparisons and grids: arms times seeds, on all cores, each run remembered."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from hubless.claims import Result
from hubless.errors import ConfigError, HublessError, did_you_mean
from hubless.run.checkpoint import digest
from hubless.run.folder import RunFolder, replace_text
from hubless.run.machine import cores
from hubless.run.progress import Lines
from hubless.run.record import Record
from hubless.run.runner import RunFailed, settle
from hubless.run.source import find_recipe, source_of

if TYPE_CHECKING:
    from rich.console import Console

    from hubless.recipe import Recipe

Key = tuple[str, str]


@dataclass(frozen=True)
class Cell:
    """One run that is wanted: a recipe with all its options, for an arm and a seed."""

    arm: str
    seed: int
    recipe: str
    source: str
    options: dict[str, Any]

    @property
    def key(self) -> Key:
        """What makes two cells the same run."""
        return self.source, digest(self.options)

    def __str__(self) -> str:
        return f"arm {self.arm!r} ({self.recipe}), seed {self.seed}"


class Outcome(NamedTuple):
    """What a worker hands back: plain text, because an exception need not survive the way between processes."""

    lines: list[str]
    refused: str = ""
    trace: str = ""


class LocalLab:
    """Runs on this machine, one process a run; see ``claims.Lab``. A context manager: ``with LocalLab(...) as lab``.

    recipe:  the recipe of an arm that names none; a name, a path or a loaded recipe
    seeds:   the seeds of every arm
    given:   options that reach every arm whose recipe has them and that does not set them itself
    preset:  preset under the given options; another recipe without that preset runs on its defaults
    jobs:    processes; 0 means one a core
    keep:    folder for finished runs (``cells/<digest>/records.jsonl``): a run found there is not run again
    console: where progress goes; standard error by default
    """

    seeds: Sequence[int]

    def __init__(
        self,
        recipe: Recipe | str,
        seeds: Sequence[int],
        given: Mapping[str, Any] | None = None,
        *,
        preset: str | None = None,
        jobs: int = 0,
        keep: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.seeds = list(seeds)
        self.given = dict(given or {})
        self.preset = preset
        self.jobs = jobs or cores()
        self.keep = keep
        self.console = console
        self.done: dict[Key, list[Record]] = {}
        self._sources: dict[str, tuple[str, Recipe]] = {}
        self._main = recipe if isinstance(recipe, str) else recipe.name
        if not isinstance(recipe, str):
            self._sources[recipe.name] = (source_of(recipe), recipe)
        self._pool: ProcessPoolExecutor | None = None
        self._lifeline: Connection | None = None
        if not self.seeds:
            raise ConfigError("seeds: at least one is needed")
        if "seed" in self.given:
            raise ConfigError("seed: a lab runs its own seeds; choose them with seeds")
        _, main = self._recipe(self._main)
        main.resolve({name: value for name, value in self.given.items() if name in main.options}, preset)

    def runs(self, **arms: dict[str, Any]) -> dict[str, list[Result]]:
        """Results of every arm in the order of the seeds; for arms whose names are no identifiers, ``**{name: ...}``.

        Raises ConfigError for an option that neither the lab's recipe nor any arm has, and RunFailed, with the
        worker's traceback, arm and seed, for a run that breaks.
        """
        self._check_given(arms)
        cells = {arm: [self._cell(arm, options, seed) for seed in self.seeds] for arm, options in arms.items()}
        wanted = {cell.key: cell for row in cells.values() for cell in row}
        missing = [cell for key, cell in wanted.items() if key not in self.done and not self._recall(cell)]
        if missing:
            self._run(missing)
        return {
            arm: [Result(cell.recipe, cell.options, self.done[cell.key]) for cell in row] for arm, row in cells.items()
        }

    def close(self) -> None:
        """End the worker processes, in whatever they are."""
        if self._lifeline is not None:
            self._lifeline.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._lifeline = None

    def __enter__(self) -> LocalLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _recipe(self, source: str) -> tuple[str, Recipe]:
        if source not in self._sources:
            recipe = find_recipe(source)
            self._sources[source] = (source_of(recipe), recipe)
        return self._sources[source]

    def _check_given(self, arms: Mapping[str, Mapping[str, Any]]) -> None:
        known: set[str] = set()
        for source in {self._main, *(str(options.get("recipe", self._main)) for options in arms.values())}:
            known.update(self._recipe(source)[1].options)
        for name in self.given:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}: no arm has it; {did_you_mean(name, known)}")

    def _cell(self, arm: str, options: Mapping[str, Any], seed: int) -> Cell:
        own = dict(options)
        source, recipe = self._recipe(str(own.pop("recipe", self._main)))
        preset = self.preset if self.preset in recipe.presets else None
        shared = {name: value for name, value in self.given.items() if name in recipe.options}
        # One thread a run: the processes share the cores, and threads change nothing but the time.
        house = {"seed": seed, "threads": 1}
        return Cell(arm, seed, recipe.name, source, settle(recipe, {**shared, **own, **house}, preset))

    def _run(self, cells: list[Cell]) -> None:
        from rich.console import Console

        pool = self._workers()
        futures: dict[Future[Outcome], Cell] = {pool.submit(_work, cell.source, cell.options): cell for cell in cells}
        try:
            with Lines("runs", len(cells), console=self.console or Console(stderr=True)) as progress:
                for future in as_completed(futures):
                    cell = futures[future]
                    self._take(cell, future)
                    progress.advance(str(cell))
        except BaseException:
            self.close()
            raise

    def _take(self, cell: Cell, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except BrokenProcessPool as error:
            raise RunFailed(f"a worker died, perhaps for lack of memory, while {cell} or another ran") from error
        if outcome.refused:
            raise ConfigError(f"{cell}: {outcome.refused}")
        if outcome.trace:
            raise RunFailed(f"{cell} failed:\n{outcome.trace}")
        self.done[cell.key] = [Record.parse(line) for line in outcome.lines]
        if self.keep is not None:
            folder = self._kept(cell)
            folder.path.mkdir(parents=True, exist_ok=True)
            about = {"recipe": cell.recipe, "source": cell.source, "options": cell.options}
            folder.write_config(about)
            replace_text(folder.records_file, "".join(line + "\n" for line in outcome.lines))

    def _kept(self, cell: Cell) -> RunFolder:
        source, options = cell.key
        name = digest({"source": source, "options": options})
        return RunFolder((self.keep or Path()) / "cells" / name)

    def _recall(self, cell: Cell) -> bool:
        if self.keep is None or not (folder := self._kept(cell)).records_file.is_file():
            return False
        self.done[cell.key] = folder.records()
        return True

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            watched, self._lifeline = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(self.jobs, context, initializer=_begin, initargs=(watched,))
        return self._pool


def _begin(lifeline: Connection) -> None:
    """A worker uses one thread, leaves Ctrl-C to the parent, and ends when the parent closes or loses the lifeline."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()


def _watch(lifeline: Connection) -> None:
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def _work(source: str, options: dict[str, Any]) -> Outcome:
    """One run, in a worker: the lines of its records."""
    lines: list[str] = []
    try:
        experiment = find_recipe(source).build(options)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        for record in experiment.records():
            lines.append(record.line())
    except Exception as error:
        if isinstance(error, HublessError) and not lines:
            return Outcome([], refused=str(error))
        return Outcome([], trace=traceback.format_exc())
    return Outcome(lines)
