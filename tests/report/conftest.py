from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import CONFIG, Save

from hubless.run.record import Record


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes records (and other files of a run) into a run folder."""

    def write(records: list[Record], config: dict[str, Any] | None = None, **files: Any) -> Path:
        (tmp_path / "records.jsonl").write_text("".join(f"{r.line()}\n" for r in records), encoding="utf-8")
        (tmp_path / "config.json").write_text(json.dumps(CONFIG if config is None else config), encoding="utf-8")
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        timings = "".join(f"{r.round},0.5\n" for r in records if r.kind == "round")
        (tmp_path / "timings.csv").write_text("round,seconds\n" + timings, encoding="utf-8")
        return tmp_path

    return write
