"""Every engine under the same loads and the same upsets: rates, waits, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from hubless.ledger.trials.load import Outcome, Upset, run
from hubless.ledger.trials.town import Tuning
from hubless.run.stages import Findings

NAMES = {
    "central": "database",
    "work": "chain, work",
    "authority": "chain, authorities",
    "tangle": "tangle",
    "dht": "DHT store",
    "hashgraph": "hashgraph",
}
# what follows from how the engines are built, beside what is measured
TRAITS = {
    "central": ("one", "least", "operator reads", "passwords"),
    "work": ("one", "tries of miners", "all read", "signatures; half the bits"),
    "authority": ("one", "n x n votes", "all read", "signatures"),
    "tangle": ("partial", "little, each", "all read", "signatures; half the bits"),
    "dht": ("none", "little", "holders read", "hashes hold"),
    "hashgraph": ("one", "much gossip", "all read", "signatures"),
}


@dataclass(frozen=True)
class Loads:
    """A trial: each engine at each latency (seconds, mean, one way), at one rate (records a second)."""

    engines: Sequence[str]
    peers: int
    seconds: float
    latencies: Sequence[float]
    rate: float
    tuning: Tuning

    def findings(self, seed: int) -> Findings:
        """Rates, waits and costs, as lines over the latency, bars and a table."""
        found = {
            (kind, latency): run(
                kind, peers=self.peers, latency=latency, rate=self.rate, seconds=self.seconds, seed=seed,
                tuning=self.tuning,
            )
            for kind in self.engines for latency in self.latencies
        }  # fmt: skip
        metrics: dict[str, float] = {}
        for (kind, latency), outcome in found.items():
            metrics |= named(outcome, f"{kind}_{latency:g}s_{self.rate:g}")
        return Findings(metrics, figures=self._figures(found))

    def _figures(self, found: dict[tuple[str, float], Outcome]) -> list[dict[str, Any]]:
        load, low = f"{self.rate:g} a second", min(self.latencies)
        at = f"{load}, {low:g} s latency"
        first = {kind: found[kind, low] for kind in self.engines}
        labels = [NAMES[kind] for kind in self.engines]
        lines = {NAMES[k]: [found[k, latency].rate for latency in self.latencies] for k in self.engines}
        stale = {
            NAMES[k]: [found[k, latency].stale for latency in self.latencies]
            for k in self.engines if k in ("work", "authority")
        }  # fmt: skip
        figures: list[dict[str, Any]] = [
            {"type": "lines", "title": f"Confirmed records a second of {self.rate:g}", "x": list(self.latencies),
             "lines": lines, "xlabel": "latency in s", "ylabel": "records/s",
             "reading": "The higher a line stays as latency grows, the less the engine needs to hear everybody before "
             "it goes on."},
            {"type": "bars", "title": f"Time to finality, {at}", "labels": labels, "ylabel": "seconds",
             "groups": {"median": [_shown(one.p50) for one in first.values()],
                        "95 %": [_shown(one.p95) for one in first.values()]},
             "reading": "From handing a record in to the moment its peer holds it for final, waiting for a block "
             "included; the DHT's is when its holders have it."},
            {"type": "bars", "title": f"What a peer keeps, {at}", "labels": labels, "ylabel": "kB",
             "groups": {"kB a peer": [one.stored / 1000 for one in first.values()]}},
            {"type": "table", "title": f"What a record costs, {at}", "columns": COSTS,
             "rows": [self._costs(kind, found) for kind in self.engines],
             "reading": "For each record, over all peers; tries of miners are counted, not made."},
            {"type": "table", "title": f"Trade-offs, {load}", "columns": TRADES,
             "rows": [self._trades(kind, found) for kind in self.engines],
             "reading": "Speed and scalability are measured, the rest follows from how the engines are built."},
        ]  # fmt: skip
        if stale:
            figures.append({
                "type": "lines", "title": f"Share of stale blocks, {load}", "x": list(self.latencies), "lines": stale,
                "xlabel": "latency in s", "ylabel": "stale share",
            })  # fmt: skip
        return figures

    def _costs(self, kind: str, found: dict[tuple[str, float], Outcome]) -> list[Any]:
        one = found[kind, min(self.latencies)]
        costs = one.costs
        work = [round(costs.bytes), round(costs.signatures, 1), round(costs.verified), round(costs.hashes)]
        return [NAMES[kind], *work, round(one.stored / 1000)]

    def _trades(self, kind: str, found: dict[tuple[str, float], Outcome]) -> list[Any]:
        low, high = (found[kind, latency] for latency in (min(self.latencies), max(self.latencies)))
        return [NAMES[kind], _shown(low.p50), f"{high.rate / low.rate:.0%}" if low.rate else "-", *TRAITS[kind]]


COSTS = ["engine", "bytes", "signatures", "checked", "hashes", "kB a peer"]
TRADES = ["engine", "speed: final, s", "scales: rate left at high latency", "order", "energy", "privacy", "quantum"]


@dataclass(frozen=True)
class Upsets:
    """A trial: peers crash, or two halves do not hear each other for a while; one latency, one rate."""

    engines: Sequence[str]
    peers: int
    seconds: float
    latency: float
    rate: float
    crashed: float
    apart: float
    tuning: Tuning

    def findings(self, seed: int) -> Findings:
        """The share of the records that became final, and whether anything final was undone or told in two ways."""
        metrics: dict[str, float] = {}
        rows: list[list[Any]] = []
        late: dict[str, list[float]] = {}
        upsets: list[Upset] = ["crash", "partition"]
        for upset in upsets:
            for kind in self.engines:
                outcome = run(
                    kind, peers=self.peers, latency=self.latency, rate=self.rate, seconds=self.seconds, seed=seed,
                    upset=upset, crashed=self.crashed, apart=self.apart, tuning=self.tuning,
                )  # fmt: skip
                metrics |= {
                    f"final_{upset}_{kind}": outcome.late,
                    f"undone_{upset}_{kind}": outcome.undone,
                    f"forked_{upset}_{kind}": outcome.forked,
                }
                late.setdefault(upset, []).append(outcome.late)
                rows.append([NAMES[kind], upset, round(outcome.late, 3), _shown(outcome.p95), outcome.undone,
                             "-" if kind in ("tangle", "dht") else "no" if outcome.forked else "yes"])  # fmt: skip
        figures: list[dict[str, Any]] = [
            {"type": "bars", "title": "Records handed in after an upset that became final", "ylabel": "share",
             "labels": [NAMES[kind] for kind in self.engines],
             "groups": {f"{self.crashed:.0%} crashed": late["crash"], f"{self.apart:g} s apart": late["partition"]}},
            {"type": "table", "title": "After an upset",
             "columns": ["engine", "upset", "final share", "p95, s", "undone", "one order"], "rows": rows},
        ]  # fmt: skip
        return Findings(metrics, figures=figures)


def named(outcome: Outcome, where: str) -> dict[str, float]:
    """An outcome as metrics; what is not a number is left out."""
    values = {
        "rate": outcome.rate, "p50": outcome.p50, "p95": outcome.p95, "settling": outcome.settling,
        "stale": outcome.stale, "undone": float(outcome.undone), "forked": float(outcome.forked),
        "stored": outcome.stored, "bytes": outcome.costs.bytes, "hashes": outcome.costs.hashes,
        "signatures": outcome.costs.signatures,
    }  # fmt: skip
    return {f"{name}_{where}": value for name, value in values.items() if isfinite(value)}


def _shown(value: float) -> float | None:
    return round(value, 2) if isfinite(value) else None
