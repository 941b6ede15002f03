"""The results table: what ``hubless verify`` last measured for each recipe, shipped with the package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hubless import __version__
from hubless.claims import Row
from hubless.errors import DataError
from hubless.run.folder import replace_text

FILE = Path(__file__).parents[1] / "recipes" / "results.json"
NAMES = {True: "held", False: "FAILED", None: "reported"}


@dataclass(frozen=True)
class Verified:
    """One verification of one recipe.

    rows: (statement of the claim, checked row) in the order of the claims
    """

    recipe: str
    date: str
    seeds: list[int]
    given: dict[str, Any]
    rows: list[tuple[str, Row]]

    @property
    def held(self) -> bool:
        """Whether no claim failed."""
        return all(row.held is not False for _, row in self.rows)

    @property
    def tally(self) -> str:
        """``2 of 3`` judged statements held."""
        judged = [row.held for _, row in self.rows if row.held is not None]
        return f"{sum(judged)} of {len(judged)}"

    def body(self) -> dict[str, Any]:
        """As JSON."""
        rows = [
            {
                "claim": claim,
                **asdict(row),
                "values": [_plain(value) for value in row.values],
                "mean": _plain(row.mean),
                "spread": _plain(row.spread),
            }
            for claim, row in self.rows
        ]
        return {
            "version": __version__,
            "date": self.date,
            "seeds": self.seeds,
            "given": self.given,
            "held": self.held,
            "rows": rows,
        }


def read(file: Path = FILE) -> dict[str, Verified]:
    """The table by recipe; empty when there is none. Raises DataError for a damaged file."""
    if not file.exists():
        return {}
    try:
        return {name: _verified(name, body) for name, body in json.loads(file.read_text(encoding="utf-8")).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: this is no results table ({error!r})") from None


def write(table: Mapping[str, Verified], file: Path = FILE) -> None:
    """Write the table in one step, recipes in alphabetical order."""
    text = json.dumps({name: table[name].body() for name in sorted(table)}, indent=1, ensure_ascii=False)
    replace_text(file, text + "\n")


def measured(row: Row) -> str:
    """Mean, spread where there are several seeds, unit."""
    if not math.isfinite(row.mean):
        return "not finite"
    spread = f" ± {row.spread:.2g}" if len(row.values) > 1 else ""
    return f"{row.mean:.4g}{spread}{'' if row.unit in ('', '%') else ' '}{row.unit}"


def _plain(value: float) -> float | None:
    """JSON has no infinity, which ``rounds_to`` gives for a target that is never reached."""
    return value if math.isfinite(value) else None


def _verified(name: str, body: dict[str, Any]) -> Verified:
    fields = ("statement", "values", "threshold", "held", "paper", "unit")
    rows = [
        (
            row["claim"],
            Row(
                **{field: row[field] for field in fields}
                | {"values": [math.nan if v is None else v for v in row["values"]]}
            ),
        )
        for row in body["rows"]
    ]
    return Verified(name, body["date"], body["seeds"], body["given"], rows)
