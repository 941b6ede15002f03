"""What a lie or a silence does: one tampered record, and a hashgraph with as many faulty members as it may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubless.ledger.trials import faulty, tampering
from hubless.ledger.trials.comparison import NAMES
from hubless.ledger.trials.town import Tuning
from hubless.run.stages import Findings


@dataclass(frozen=True)
class Lies:
    """A trial: one of ``records`` is changed at one peer, and all others read it from there."""

    engines: Sequence[str]
    peers: int
    records: int
    tuning: Tuning

    def findings(self, seed: int) -> Findings:
        """Who noticed."""
        found = {
            kind: tampering.run(kind, peers=self.peers, records=self.records, seed=seed, tuning=self.tuning)
            for kind in self.engines
        }
        metrics = {f"noticed_{kind}": one.noticed for kind, one in found.items()}
        metrics |= {f"accepted_{kind}": one.accepted for kind, one in found.items()}
        rows: list[list[Any]] = [
            [NAMES[kind], one.accepted, one.noticed, "yes" if one.audit else "no"] for kind, one in found.items()
        ]
        table = {
            "type": "table", "title": "One tampered record", "rows": rows,
            "columns": ["engine", "accepted before", "noticed by readers", "shows in the liar's audit"],
        }  # fmt: skip
        return Findings(metrics, figures=[table])


@dataclass(frozen=True)
class Faults:
    """A trial: ``most`` faulty members, half silent and half telling two stories; all silent; and one more silent."""

    peers: int
    most: int
    latency: float
    rate: float
    seconds: float

    def findings(self, seed: int) -> Findings:
        """How much the honest members ordered, and whether alike."""
        arms = {
            "mixed": (self.most - self.most // 2, self.most // 2),
            "silent": (self.most, 0),
            "beyond": (self.most + 1, 0),
        }
        metrics: dict[str, float] = {}
        rows: list[list[Any]] = []
        for name, (silent, forkers) in arms.items():
            one = faulty.run(peers=self.peers, silent=silent, forkers=forkers, latency=self.latency, rate=self.rate,
                             seconds=self.seconds, seed=seed)  # fmt: skip
            metrics |= {
                f"ordered_{name}": one.ordered / one.handed,
                f"same_order_{name}": float(one.same),
                f"forkers_known_{name}": one.forks,
            }
            rows.append([silent, forkers, one.handed, one.ordered, one.rounds, "yes" if one.same else "no"])
        table = {
            "type": "table", "title": f"A hashgraph of {self.peers} with faulty members", "rows": rows,
            "columns": ["silent", "tell two stories", "records", "ordered", "rounds", "one order"],
        }  # fmt: skip
        return Findings(metrics, figures=[table])
