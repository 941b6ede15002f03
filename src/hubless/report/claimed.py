"""The claim table: what the paper says beside what was measured."""

from __future__ import annotations

import math
import statistics
from typing import Any

from hubless.report.template import Table
from hubless.report.words import number

NOTE = "What the paper says beside what was measured here, over all seeds."


def claim_table(told: Any) -> Table:
    """Rows with the fields of ``claims.Row``, in a list or under ``rows`` of a mapping; others are left out."""
    rows = told.get("rows", []) if isinstance(told, dict) else told
    table, marks = [], []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or "statement" not in row:
            continue
        held = row.get("held")
        mark = "reported" if held is None else "held" if held else "failed"
        marks.append(mark)
        asked = "–" if held is None else str(row.get("threshold") or "–")
        table.append((str(row["statement"]), str(row.get("paper") or "–"), _measured(row), asked, mark))
    return Table("Claims", ("statement", "paper", "measured", "asked", "verdict"), table, marks, NOTE)


def _measured(row: dict[str, Any]) -> str:
    """Mean and standard deviation over the seeds, with the unit."""
    values = [float(v) for v in row.get("values") or [] if v is not None and math.isfinite(v)]
    mean = statistics.fmean(values) if values else row.get("mean")
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{number(mean)}{spread} {row.get('unit') or ''}".strip()
