"""Replicas that wrote apart: how soon they are the same again, and what is lost; beside whole-document overwrites."""

from __future__ import annotations

from dataclasses import dataclass

from hubless.errors import ConfigError
from hubless.net.crdt.trial import PATIENCE, Run, trial
from hubless.run.stages import Findings


@dataclass(frozen=True)
class Apart:
    """A trial: ``sides`` groups of ``peers`` write ``writes`` times each while they are ``apart`` seconds.

    every: seconds between two exchanges of a peer: one round
    """

    peers: int = 30
    sides: int = 3
    apart: float = 60.0
    writes: int = 300
    every: float = 1.0
    loss: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.sides <= self.peers or self.peers < 2:
            raise ConfigError(
                f"sides = {self.sides}: must be from 1 to the number of replicas, {self.peers}, of at least 2"
            )

    def findings(self, seed: int) -> Findings:
        """The trial, as ``net.crdt.trial`` runs it."""
        outcome = trial(
            seed, peers=self.peers, sides=self.sides, apart=self.apart, writes=self.writes, every=self.every,
            loss=self.loss,
        )  # fmt: skip
        arms = {"CRDT store": outcome.store, "overwritten whole": outcome.baseline}
        times = sorted(dict.fromkeys(time for arm in arms.values() for time, _ in arm.curve))
        return Findings(
            metrics={
                "heal_rounds": min(outcome.store.rounds, PATIENCE),
                "replicas_equal": float(outcome.equal),
                "operations": outcome.operations,
                "operations_lost": outcome.lost,
                "counter_exact": float(outcome.exact),
                "adds_lost_share_overwriting": outcome.overwritten,
            },
            figures=[
                {
                    "type": "lines", "title": f"{self.peers} replicas that wrote in {self.sides} groups, after healing",
                    "xlabel": "seconds since healing", "ylabel": "different documents", "x": times,
                    "lines": {name: [_at(arm, time) for time in times] for name, arm in arms.items()},
                },
                {
                    "type": "table", "title": "What all replicas still have",
                    "columns": ["", *arms],
                    "rows": [
                        ["items added and not removed", *(arm.wanted for arm in arms.values())],
                        ["of these at every replica", *(arm.kept for arm in arms.values())],
                        ["counted", *(arm.counted for arm in arms.values())],
                        ["counters say", *(_spread(arm.counter) for arm in arms.values())],
                        ["keys set", *(arm.keys for arm in arms.values())],
                        ["of these at every replica", *(arm.held for arm in arms.values())],
                    ],
                },
            ],
            events=[] if outcome.equal else ["the replicas never became equal"],
        )  # fmt: skip


def _at(arm: Run, time: float) -> int:
    """Different documents at a time, or at the last one that was looked at before."""
    return [count for when, count in arm.curve if when <= time][-1]


def _spread(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"
