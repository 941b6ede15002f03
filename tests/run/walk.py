"""A recipe without learning, for tests of runs: every peer takes seeded random steps on a line."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hubless.errors import ConfigError, PeerError
from hubless.options import Count, Positive, Whole
from hubless.recipe import recipe
from hubless.run.record import Record, Snapshot
from hubless.run.setting import Setting

presets = {"tiny": {"rounds": 2}}
hurdles: dict[int, BaseException] = {}  # what a test raises inside a round, by round


@dataclass
class Walk:
    rounds: int
    peers: int
    step: float
    fail: int
    tensors: bool
    seed: int = 0

    def under(self, setting: Setting) -> Walk:
        return replace(self, seed=setting.seed)

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        if resume is None:
            self.done, self.places = 0, [0.0] * self.peers
            yield Record("start", 0, data={"peers": self.peers, "kernel": "steps"})
        else:
            places = resume.tensors["places"].tolist() if self.tensors else resume.meta["places"]
            self.done, self.places = resume.round, places
        for t in range(self.done + 1, self.rounds + 1):
            for i in range(self.peers):
                self.places[i] += self.step * random.Random(f"{self.seed} {t} {i}").gauss(0, 1)
                if i == self.peers // 2 and t in hurdles:
                    raise hurdles[t]
                if t == self.fail:
                    raise PeerError("fell over", peer=i, round=t)
            if t % 4 == 0:
                yield Record("event", t, data={"text": f"round {t} is a multiple of four", "level": "info"})
            self.done = t
            metrics = {"accuracy": 1 / (1 + abs(sum(self.places))), "bytes": 1e6 * t}
            if t > 2:
                metrics["spread"] = math.dist(self.places, [0.0] * self.peers)
            yield Record("round", t, metrics, {"place": list(self.places)})
        yield Record("end", self.rounds, {"accuracy": 0.5}, data={"finished": True})

    def snapshot(self) -> Snapshot:
        if not self.tensors:
            return Snapshot(self.done, {}, {"places": list(self.places)})
        import torch

        return Snapshot(self.done, {"places": torch.tensor(self.places, dtype=torch.float64)}, {})

    def model(self) -> dict[str, Any]:
        if not self.tensors:
            return {}
        import torch

        return {"places": torch.tensor(self.places)}


@recipe()
def walk(rounds: Count = 12, peers: Count = 3, step: Positive = 1, fail: Whole = 0, tensors: bool = False) -> Walk:
    """Random steps.

    Args:
        step: standard deviation of one step
        fail: round in which peer 0 falls over; 0 for never
        tensors: keep the places as a tensor in snapshots
    """
    if step > 100:
        raise ConfigError(f"walk.step = {step} is too far")
    return Walk(rounds, peers, step, fail, tensors)
