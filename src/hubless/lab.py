"""The lab of claims, comparisons and grids: arms times seeds, on all cores, each run remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hubless.claims import Result

if TYPE_CHECKING:
    from rich.console import Console

    from hubless.recipe import Recipe


class LocalLab:
    """Runs on this machine, one process a run; see ``claims.Lab``. A context manager: ``with LocalLab(...) as lab``.

    recipe:  the recipe of an arm that names none; a name, a path or a loaded recipe
    seeds:   the seeds of every arm
    given:   options that reach every arm whose recipe has them and that does not set them itself
    preset:  preset under the given options; recipes without that preset run on their defaults
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
        raise NotImplementedError

    def runs(self, **arms: dict[str, Any]) -> dict[str, list[Result]]:
        """Results of every arm in the order of the seeds; for arms whose names are no identifiers, ``**{name: ...}``.

        Raises ConfigError for an option that neither the lab's recipe nor any arm has, and RunFailed, with the
        worker's traceback, arm and seed, for a run that breaks.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the worker processes."""
        raise NotImplementedError

    def __enter__(self) -> LocalLab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
