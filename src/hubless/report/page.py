"""The report of one run: from its folder to one self-contained HTML page."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubless.errors import DataError
from hubless.report.claimed import claim_table
from hubless.report.figures import figures
from hubless.report.reading import events
from hubless.report.template import Page, publish
from hubless.report.verdict import summary, tiles, verdict
from hubless.report.words import number
from hubless.run.folder import RunFolder

EVENTS = 400


def write(run: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run's folder from its files; returns the page's path.

    Reads ``records.jsonl``, and ``config.json``, ``timings.csv``, ``error.txt`` and ``claims.json`` (rows of
    ``claims.Row``) where they are; a run that was interrupted after any record is fine. Raises DataError when
    there are no records or a file is damaged.
    """
    folder = RunFolder(run)
    records = folder.records()
    if not records:
        raise DataError(f"{run} holds no records of a run")
    config = folder.config() if folder.config_file.is_file() else {}
    claims = claim_table(_json(folder.path / "claims.json"))
    error = folder.error_file.read_text(encoding="utf-8", errors="replace") if folder.error_file.is_file() else ""
    folder.figures.mkdir(exist_ok=True)
    system = config.get("system")
    labels = [f"system {system}" if system is not None else "", str(config.get("family") or "")]
    page = Page(
        title=str(config.get("recipe") or folder.path.name),
        eyebrow=" · ".join(label for label in labels if label),
        summary=summary(config, records),
        verdict=verdict(records, error),
        tiles=tiles(records, wall_time(folder.timings_file)),
        tables=[claims] if claims.rows else [],
        figures=list(figures(records, folder.figures)),
        events=events(records)[:EVENTS],
        error=error.strip(),
        options=[(str(name), _option(value)) for name, value in (config.get("options") or {}).items()],
        command=_command(config.get("command")),
        facts=_facts(config),
    )
    return publish(page, folder.report)


def wall_time(timings: Path) -> float | None:
    """Seconds of all rounds together; None when they were not measured."""
    if not timings.is_file():
        return None
    seconds = []
    with timings.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                seconds.append(float(row["seconds"]))
            except (KeyError, TypeError, ValueError):
                continue  # the line that was being written when the run was killed
    return math.fsum(s for s in seconds if math.isfinite(s)) if seconds else None


def _json(path: Path) -> Any:
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _option(value: Any) -> str:
    """An option as it would be typed: no thousands separators."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return "–" if value is None or value == "" else str(value)


def _command(told: Any) -> str:
    return shlex.join(str(word) for word in told) if isinstance(told, list) else str(told or "")


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Seed, preset, time, machine and versions: what it takes to repeat the run."""
    found = []
    for name in ("Seed", "Preset", "Kernel", "Started", "Machine", "Versions"):
        value = config.get(name.lower())
        if value not in (None, ""):
            found.append((name, str(value) if isinstance(value, int) else number(value)))
    return found
