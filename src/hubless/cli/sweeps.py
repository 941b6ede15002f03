"""What ``compare`` and ``grid`` have in common: the folder of many runs, and how their workers find a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hubless.catalogue import Entry
from hubless.run.folder import check_free, default_path


@contextmanager
def folder(verb: str, out: Path | None) -> Iterator[Path]:
    """The folder for the page and the runs; it does not stay when nothing comes to be written in it.

    Raises ConfigError when ``out`` is taken.
    """
    if out is None:
        path = default_path(verb)
    else:
        check_free(out)
        path = out
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        with suppress(OSError):  # there is something in it
            path.rmdir()


def source(entry: Entry) -> str:
    """Text by which another process finds the recipe again."""
    return str(entry.path) if entry.family == "file" else entry.name
