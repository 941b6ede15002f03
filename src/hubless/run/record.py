"""What happens in an experiment, as a stream of records.

A record holds only what follows from the options and the seed: the same run writes the same bytes.
Wall-clock time is kept beside it (``timings.csv``), never in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hubless.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from hubless.run.setting import Setting

KINDS = ("start", "round", "event", "figure", "end")


@dataclass(frozen=True)
class Record:
    """One thing that happened.

    kind:    ``start`` (the world: peers, topology, partition), ``round`` (metrics), ``event`` (a line of
             text in ``data["text"]``), ``figure`` (data of one drawing, see ``report.figures``) or ``end``
    round:   1-based round that has just ended; 0 before the first
    metrics: one number each for the whole population
    peers:   one value a peer for each name, in the order of peer ids; None where there is none
    data:    anything else, as JSON
    """

    kind: str
    round: int
    metrics: dict[str, float] = field(default_factory=dict)
    peers: dict[str, list[float | None]] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """The record as one line of JSON; numbers that are not finite become null."""
        body = {"kind": self.kind, "round": self.round}
        for name in ("metrics", "peers", "data"):
            if value := getattr(self, name):
                body[name] = _finite(value)
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def parse(line: str) -> Record:
        """The record of one line. Raises DataError when the line is none."""
        try:
            body = json.loads(line)
            metrics = {name: math.nan if v is None else v for name, v in body.get("metrics", {}).items()}
            return Record(body["kind"], body["round"], metrics, body.get("peers", {}), body.get("data", {}))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a record: {line[:80]!r} ({error})") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True)
class Snapshot:
    """All that is needed to go on after ``round``: tensors by name, and the rest as JSON."""

    round: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


@runtime_checkable
class Experiment(Protocol):
    """What a recipe returns: something that yields records and can stop and go on after any of them."""

    @property
    def rounds(self) -> int:
        """Rounds that a whole run has."""

    def under(self, setting: Setting) -> Experiment:
        """The same experiment with another seed, faults, device, ...; checks all that can be checked before work."""

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        """Run; with ``resume``, go on after its round (the ``start`` record is not repeated)."""

    def snapshot(self) -> Snapshot:
        """The state after the round whose record was yielded last."""

    def model(self) -> dict[str, Tensor]:
        """What was learned, as named tensors to save; may be empty."""
