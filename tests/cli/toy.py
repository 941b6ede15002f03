"""Toy: a recipe without tensors, whose accuracy climbs to its skill.

It has one of everything that the catalogue reads: an alias, constants, presets, claims.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hubless.claims import Claim, Lab, Row, at_least
from hubless.errors import ConfigError
from hubless.options import Annotated, Count, NonNegative
from hubless.options import Probability as Share
from hubless.recipe import recipe
from hubless.run.record import Record, Snapshot
from hubless.run.setting import Setting

Shape = Annotated[str, "how the curve climbs"]
ROUNDS = 4
SMALL = {"rounds": 2}


@dataclass(frozen=True)
class Climb:
    """Accuracy = skill * round / rounds, and a little luck of the seed."""

    rounds: int
    skill: float
    peers: int
    seed: int = 0
    fails: bool = False
    last: list[int] = field(default_factory=list)

    def under(self, setting: Setting) -> "Climb":
        if setting.faults:
            raise ConfigError(f"toy.faults: {setting.faults!r} is not for a toy")
        return replace(self, seed=setting.seed)

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        begun = resume.round if resume else 0
        if not begun:
            names = {"data": "none"}
            yield Record("start", 0, data={"peers": self.peers, "names": names, "parameters": 1})
        for t in range(begun + 1, self.rounds + 1):
            if self.fails and t == 2:
                raise RuntimeError("the toy broke")
            luck = random.Random(f"{self.seed} {t}").random() / 100
            accuracy = self.skill * t / self.rounds + luck
            self.last[:] = [t]
            yield Record("round", t, {"accuracy": accuracy, "bytes": 10.0 * t, "alive": self.peers})
        yield Record("end", self.rounds, {"accuracy": self.skill}, data={"finished": True, "text": "climbed"})

    def snapshot(self) -> Snapshot:
        return Snapshot(self.last[0], {}, {"word": "climbing"})

    def model(self) -> dict[str, Any]:
        return {}


@recipe(system=7)
def toy(
    peers: Count = 3,
    rounds: Count = ROUNDS,
    skill: Share = 0.5,
    weight_decay: NonNegative = 0.0,
    shape: Shape = "straight",
    mode: Literal["up", "down"] = "up",
    fails: bool = False,
    seed: int = 5,
) -> Climb:
    """Climb to a skill.

    Args:
        skill: accuracy at the end
        shape: only a word, which
            goes on in a second line
        fails: break in round 2
    """
    return Climb(rounds, skill, peers, fails=fails)


presets = {"tiny": dict(rounds=1, skill=0.25), "small": {**SMALL, "mode": "down"}}


def _better(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(low={"skill": 0.2}, high={"skill": 0.8})
    gain = [high.final("accuracy") - low.final("accuracy") for low, high in zip(*runs.values(), strict=True)]
    yield at_least("more skill, more accuracy", gain, 0.3, paper="obvious")


claims = [Claim("skill pays", _better, paper="Table 1"), Claim(statement="skill pays twice", check=_better)]
