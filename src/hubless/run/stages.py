"""An experiment of stages, each run once and told in one round: for systems that do not learn round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hubless.errors import CheckpointError, ConfigError
from hubless.run.record import Experiment, Record, Snapshot
from hubless.run.setting import Setting

if TYPE_CHECKING:
    from torch import Tensor

UNUSED = ("faults", "links", "trainable", "personal", "device", "nonfinite", "evaluate", "memory", "backend", "workers")


@dataclass(frozen=True)
class Findings:
    """What a stage found.

    metrics: one number a name; names are the stage's own, or a later stage overwrites them in the end record
    peers:   one value a peer for each name
    figures: data of drawings, see ``report.recorded``
    events:  what a person should know, in words
    """

    metrics: Mapping[str, float]
    peers: Mapping[str, list[float | None]] = field(default_factory=dict)
    figures: Sequence[dict[str, Any]] = ()
    events: Sequence[str] = ()


@dataclass(frozen=True)
class Stage:
    """A named part of an experiment; ``run`` gets the seed, and the same seed must find the same."""

    name: str
    run: Callable[[int], Findings]


@dataclass(frozen=True)
class Stages:
    """Stages in order; a run that was stopped goes on with the first that it had not finished.

    world: goes into the start record: ``peers``, ``names``, ``edges``, ...
    uses:  house options beyond seed and threads that the stages use; another one that is set is an error
    """

    stages: Sequence[Stage]
    world: Mapping[str, Any]
    uses: tuple[str, ...] = ()
    setting: Setting = field(default_factory=Setting)

    @property
    def rounds(self) -> int:
        """One a stage."""
        return len(self.stages)

    def under(self, setting: Setting) -> Experiment:
        """The same under another seed. Raises ConfigError for a house option that means nothing here."""
        if not self.stages:
            raise ConfigError("stages: none is left to run")
        for name in UNUSED:
            value = getattr(setting, name)
            if name not in self.uses and value != Setting.model_fields[name].default:
                raise ConfigError(f"{name} = {value!r}: means nothing to this recipe; leave it out")
        return StagesRun(replace(self, setting=setting))


class StagesRun:
    """Stages under a setting."""

    def __init__(self, asked: Stages) -> None:
        self.asked = asked
        self.metrics: dict[str, float] = {}
        self.round = 0

    @property
    def rounds(self) -> int:
        """One a stage."""
        return self.asked.rounds

    def under(self, setting: Setting) -> Experiment:
        """The same stages under another setting."""
        return self.asked.under(setting)

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        """Run the stages that are left."""
        self.metrics, self.round = {}, 0
        if resume is not None:
            self.metrics, self.round = dict(resume.meta["metrics"]), resume.round
            if self.round > self.rounds:
                raise CheckpointError(f"checkpoint: after stage {self.round}, but there are {self.rounds}")
        else:
            names = [stage.name for stage in self.asked.stages]
            yield Record("start", 0, data={**self.asked.world, "stages": names})
        for t, stage in enumerate(self.asked.stages[self.round :], start=self.round + 1):
            found = stage.run(self.asked.setting.seed)
            yield Record("event", t, data={"text": f"stage {stage.name}"})
            for text in found.events:
                yield Record("event", t, data={"text": text})
            for figure in found.figures:
                yield Record("figure", t, data=dict(figure))
            self.metrics |= found.metrics
            self.round = t
            yield Record("round", t, dict(found.metrics), dict(found.peers))
        yield Record("end", self.round, dict(self.metrics), data={"finished": True})

    def snapshot(self) -> Snapshot:
        """What the stages so far found."""
        return Snapshot(self.round, {}, {"metrics": dict(self.metrics)})

    def model(self) -> dict[str, Tensor]:
        """Nothing was learned."""
        return {}
