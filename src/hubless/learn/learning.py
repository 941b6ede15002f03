"""A learning experiment: the slots filled, checked against each other, and run round by round."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubless.errors import CheckpointError, ConfigError, did_you_mean
from hubless.learn import backends
from hubless.learn.attacks import hostile
from hubless.learn.codecs import Codec
from hubless.learn.compatible import compatible, large_enough, owned, summable
from hubless.learn.kept import Kept
from hubless.learn.kernels.choice import KINDS
from hubless.learn.masks import masks
from hubless.learn.merges import mean
from hubless.learn.model import PERSONAL, Model
from hubless.learn.observe import Observer
from hubless.learn.plan import Overlay, Plan, World
from hubless.learn.population import Cohort, Population, leaves, tree
from hubless.learn.privacy import Privacy
from hubless.learn.shards import reported
from hubless.learn.slots import Attack, Hook, Local, Merge, Reduce
from hubless.learn.streamed import Streamed
from hubless.learn.streaming import Streaming
from hubless.learn.success import wanted
from hubless.learn.training import Workers
from hubless.learn.wire import Meter
from hubless.learn.wiring import Told, Wiring
from hubless.learn.workload import Shards, Workload
from hubless.net.faults import Faults, Weather
from hubless.net.links import Links
from hubless.parts import make
from hubless.run.record import Experiment, Record, Snapshot
from hubless.run.setting import Setting

if TYPE_CHECKING:
    from hubless.learn.backends.crew import Crew


@dataclass(frozen=True)
class Learning:
    """A population that learns: what it works on, and one part for each slot; parts may be given by name.

    workload: data, partition, number of peers, model
    local:    how a peer trains, or one for each role
    overlay:  who trains and who sends to whom
    merge:    what peers say and what they make of it
    codec:    how a message becomes bytes
    attack:   what hostile peers do
    privacy:  what protects the peers' data; it fills or wraps the other slots
    hooks:    judges, ledgers, accountants, extra metrics
    models:   cohorts of different shapes, ``[(model, peer ids), ...]``, in place of the workload's model
    rounds:   rounds of a whole run
    faults:   a schedule that belongs to the experiment; that of the setting comes on top
    """

    workload: Workload
    local: Local | Mapping[str, Local]
    overlay: Overlay
    merge: Merge | Reduce | str = field(default_factory=mean)
    codec: Codec | str = field(default_factory=Codec)
    attack: Attack | str | None = None
    privacy: Privacy | str = "none"
    hooks: tuple[Hook, ...] = ()
    models: Sequence[tuple[Model, Sequence[int]]] | None = None
    rounds: int = 50
    faults: str = ""
    kernel: str = "auto"
    figures: tuple[Record, ...] = ()
    setting: Setting = field(default_factory=Setting)

    def under(self, setting: Setting) -> Experiment:
        """The same experiment under other house options. Raises ConfigError for what cannot work together."""
        return Run(replace(self, setting=setting))

    def _masked(self) -> Learning:
        """With the masks of the setting, where it has some, in place of the workload's."""
        asked = {"trainable": self.setting.trainable, "personal": self.setting.personal}
        given = {name: text for name, text in asked.items() if text}
        if not given:
            return self
        models = self.models and [(model.masked(*masks(**asked)), ids) for model, ids in self.models]
        return replace(self, workload=replace(self.workload, **given), models=models)


class Run:
    """A ``Learning`` under a setting: checked at once, built when its records are asked for."""

    def __init__(self, learning: Learning) -> None:
        self.asked = learning
        privacy: Privacy = make("privacy", learning.privacy)
        self.learning = learning = privacy.protect(learning._masked())
        merge: Merge | Reduce = make("merge", learning.merge)
        self.merge = Merge(merge) if isinstance(merge, Reduce) else merge
        self.codec: Codec = make("codec", learning.codec)
        self.attack: Attack | None = make("attack", learning.attack)
        self.local = learning.local if isinstance(learning.local, Mapping) else {"train": learning.local}
        self.setting = learning.setting
        self.n = learning.workload.peers
        if learning.rounds < 1:
            raise ConfigError(f"rounds = {learning.rounds}: must be at least 1")
        if learning.kernel not in (allowed := [*KINDS, "auto"]):
            raise ConfigError(f"kernel: unknown {learning.kernel!r}; {did_you_mean(learning.kernel, allowed)}")
        if self.setting.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device = 'cuda': this machine or this build of torch has no CUDA; use cpu")
        self.links = Links.of(self.setting.links, seed=self.setting.seed)
        learning.overlay.check(self.n, self.setting.seed)
        self.hostile = frozenset(hostile(self.attack, self.n, self.setting.seed))
        if self.attack is not None:
            self.attack = replace(self.attack, peers=tuple(sorted(self.hostile)))
        self.models = self._models()
        compatible(self.local, learning.overlay, self.merge, self.codec, self.attack, learning.hooks,
                   [model for model, _ in self.models])  # fmt: skip
        for model, _ in self.models:
            owned(model, self._makers)
        self.edges = self._edges()
        self._aggregator = 0
        self.schedule = ",".join(text for text in (learning.faults, self.setting.faults) if text.strip())
        self.faults = Faults.of(
            self.schedule, n=self.n, seed=self.setting.seed, edges=self.edges,
            aggregator=lambda _: self._aggregator,
        )  # fmt: skip
        self.shards = self._shards()
        if self.codec.hides:
            summable(self._first_plan(), self.codec)
        if type(self.merge.reduce).check is not Reduce.check:
            large_enough(self._first_plan(), self.merge.reduce)
        if self._may_end and (why := self._ended(1, self._first_plan(), self._first_world())):
            raise ConfigError(why)
        backends.check(self)
        self.origin: tuple[str, dict[str, Any]] | None = None  # recipe and options, where it was built from text
        self._state: _State | None = None

    @property
    def rounds(self) -> int:
        """Rounds of a whole run."""
        return self.learning.rounds

    def under(self, setting: Setting) -> Experiment:
        """The same experiment under other house options."""
        return self.asked.under(setting)

    def _models(self) -> list[tuple[Model, Tensor]]:
        if self.learning.models is None:
            return [(self.learning.workload.network(), torch.arange(self.n))]
        placed = sorted(peer for _, ids in self.learning.models for peer in ids)
        if placed != list(range(self.n)):
            raise ConfigError(f"cohorts: every one of the {self.n} peers must be in one cohort, but they hold {placed}")
        return [(model, torch.tensor(sorted(ids), dtype=torch.int64)) for model, ids in self.learning.models]

    @property
    def _makers(self) -> list[Any]:
        """Parts that have state, each once."""
        makers = [*self.local.values(), self.merge, *self.codec.stages, self.codec.packer]
        if self.attack and self.attack.local:
            makers.append(self.attack.local)
        return list({id(maker): maker for maker in makers}.values())

    def _edges(self) -> Any:
        look = getattr(self.learning.overlay, "edges", None)
        return look(self.n, self.setting.seed) if look else None

    def _shards(self) -> Shards:
        shards = self.learning.workload.shards(self.setting.seed)
        for model, _ in self.models:
            model.check(shards.test_x, shards.test_y, len(shards.data.classes))
            self.merge.check(model, shards)
        if self.attack is not None:
            self.attack.check(len(shards.data.classes), tuple(shards.x.shape[1:]))
            self.attack = self.attack.fitted(len(shards.data.classes))
            for peer in sorted(self.hostile):
                self.attack.check_peer(peer, *shards.own(peer))
            if self.hostile:
                wanted(self.attack, shards, {})
        return shards.to(self.setting.device)

    def _first_plan(self) -> Plan:
        overlay, world = self.learning.overlay, self._first_world()
        return overlay.plan(1, world, overlay.init(world))

    def _first_world(self) -> World:
        return World(self.n, self.setting.seed, self.shards.sizes.cpu(), list(range(self.n)), lambda _: True)

    @property
    def streams(self) -> bool:
        """Whether one model is stored for all peers."""
        shared = self._one_model and not (self.codec.hides or self.codec.remembers)
        return shared and not (self.attack is not None and (self.attack.joint or self.attack.reduce))

    def wired(
        self, held: Tensor | None = None, *, remote: bool = False, shards: Sequence[Tensor] = ()
    ) -> tuple[Wiring, Streaming | Kept]:
        """The state of the peers ``held`` (ids, rising; None: all) before the first round, and what runs rounds on it.

        shards: ids of the peers of all shards, where they are known: all may then share one model
        remote: the others are on machines that are not ours, so that even a model that all share is kept by each
        """
        setting, learning = self.setting, self.learning
        shared = self.streams and (held is None or bool(shards))
        shape_of = torch.zeros(self.n, dtype=torch.int64)
        cohorts = []
        for number, (model, ids) in enumerate(self.models):
            shape_of[ids] = number
            mine = ids if held is None else ids[torch.isin(ids, held)]
            cohorts.append(
                Cohort(model, mine, self._makers, setting.seed, shared=shared, common=set(self.merge.common))
            )
        for cohort in cohorts:
            cohort.to(setting.device)
        workers = Workers(1 if setting.device == "cuda" else setting.threads)
        population = Population(cohorts, self.n, shape_of, shards)
        meter = Meter(torch.zeros(self.n, dtype=torch.float64), held=None if held is None else population.held)
        wiring = Wiring(
            population, self.shards, self.local, learning.overlay, self.merge, self.codec,
            self.attack, self.hostile, learning.hooks, self.links, setting.seed, workers,
            meter, learning.kernel, setting.memory, setting.nonfinite, remote,
        )  # fmt: skip
        if not shared:
            return wiring, Kept(wiring)
        return wiring, Streaming(wiring) if population.whole else Streamed(wiring)

    def _build(self) -> _State:
        wiring, runner = self.wired()
        return _State(wiring, runner, self.learning.overlay.init(self.world(wiring, self.faults.at(1))))

    def crew(self, wiring: Wiring) -> Crew | None:
        """Who computes the rounds, where it is not this process."""
        return backends.start(self, wiring)

    def weather(self, t: int, book: Mapping[str, Any]) -> Weather:
        """What happens to peers in round t; the overlay's book says who the aggregator is, whom an event may hit."""
        self._aggregator = int((book.get("holders") or [book.get("aggregator", 0)])[0])
        return self.faults.at(t)

    def world(self, wiring: Wiring, weather: Weather) -> World:
        """What an overlay may know in a round."""
        alive = weather.alive
        joined, left = tuple(weather.joined.tolist()), tuple(weather.left.tolist())
        return World(self.n, self.setting.seed, self.shards.sizes, wiring.population.members(),
                     lambda peer: bool(alive[peer]), joined, left)  # fmt: skip

    def records(self, resume: Snapshot | None = None) -> Iterator[Record]:
        """Run; with a snapshot, go on after its round. Raises CheckpointError when the snapshot is not of this run."""
        state = self._state = self._build()
        observer = Observer(self, state.wiring)
        first = 1
        try:
            state.crew = self.crew(state.wiring)
            if resume is not None:
                self._restore(resume, state)
                first = resume.round + 1
            else:
                yield observer.start()
                yield from self.learning.figures
            last = first - 1
            for t in range(first, self.rounds + 1):
                weather = self.weather(t, state.book)
                world = self.world(state.wiring, weather)
                kept = copy.deepcopy(state.book) if self._may_end else state.book
                plan = self.learning.overlay.plan(t, world, state.book)
                if why := self._ended(t, plan, world):
                    state.book = kept  # a round that was planned and did not come about leaves no trace
                    yield Record("event", last, data={"text": f"the run ends: {why}", "level": "warning"})
                    break
                yield from observer.weather(t, weather)
                state.wiring.begin()
                chatter = self.learning.overlay.chatter(t, state.book)
                if chatter is not None:
                    state.wiring.meter.listen(chatter, self.links)
                    state.wiring.events += [Told((), text) for text in chatter.events]
                done = state.runs.round(t, plan, weather)
                if done.holders is not None:
                    self.learning.overlay.handed(done.holders, state.book)
                self._report(t, plan, state)
                if t % self.setting.evaluate == 0 or t == self.rounds or self._watched:
                    state.gather()
                outcome = self._outcome(t, state)
                record = observer.round(t, weather, done.trained, outcome, chatter.metrics if chatter else {})
                yield from observer.events(t)
                state.round = last = t
                yield record
            state.gather()
            outcome = self._outcome(last, state)
            yield observer.end(last, self.faults.at(last), outcome)
        except GeneratorExit:  # whoever leaves now may still ask for a snapshot
            state.gather()
            raise
        finally:
            state.wiring.workers.close()
            if state.crew is not None:
                state.crew.close()

    @property
    def _may_end(self) -> bool:
        """Whether some hook may end the run early."""
        return any(type(hook).before is not Hook.before for hook in self.learning.hooks)

    @property
    def _watched(self) -> bool:
        """Whether some hook looks at the population after every round."""
        return any(type(hook).round is not Hook.round for hook in self.learning.hooks)

    def _ended(self, t: int, plan: Plan, world: World) -> str | None:
        """Why some hook lets the run go no further than the round before t."""
        said = (hook.before(t, plan, world) for hook in self.learning.hooks)
        return next((why for why in said if why), None)

    @property
    def _one_model(self) -> bool:
        """Whether all that peers have is the aggregator's model, at the time when they received it."""
        alike = self.learning.overlay.shared and len(self.models) == 1
        whole = self.merge.share is None and PERSONAL not in self.models[0][0].groups
        return alike and whole and not self.merge.per_target

    def _outcome(self, t: int, state: _State) -> list[int] | None:
        """Peers whose models count: of a star that keeps a row a peer, the aggregator's, as if one were stored."""
        said = self.learning.overlay.outcome(t, state.book)
        if said is None and self._one_model and not state.wiring.population.shared:
            return [state.book["aggregator"]]
        return said

    def _report(self, t: int, plan: Any, state: _State) -> None:
        overlay = self.learning.overlay
        if overlay.reports:
            crew = state.crew
            found = crew.reports if crew is not None else reported(overlay, state.wiring.population.cohorts)
            overlay.observe(t, plan, found, state.book)

    def snapshot(self) -> Snapshot:
        """The state after the last round; its tensors are the run's own, good until the next record is asked for."""
        if self._state is None:
            raise CheckpointError("checkpoint: the run has not begun")
        state, wiring = self._state, self._state.wiring
        state.gather()
        book = dict(leaves(state.book))
        tensors = {**wiring.population.tensors(), "meter/sent": wiring.meter.sent}
        tensors |= {f"overlay/{path}": value for path, value in book.items() if isinstance(value, Tensor)}
        meta = {
            "population": wiring.population.scalars(),
            "meter": wiring.meter.scalars(),
            "overlay": {path: value for path, value in book.items() if not isinstance(value, Tensor)},
            "hooks": [hook.state() for hook in wiring.hooks],
            "faults": self.faults.resolved(),
        }
        return Snapshot(state.round, tensors, copy.deepcopy(meta))

    def _restore(self, snapshot: Snapshot, state: _State) -> None:
        meta = copy.deepcopy(snapshot.meta)
        state.wiring.population.restore(snapshot.tensors, meta["population"])
        state.wiring.meter.restore(snapshot.tensors["meter/sent"], meta["meter"])
        state.book = tree("overlay", snapshot.tensors, meta["overlay"])
        if state.crew is not None:
            state.crew.restore()
        for hook, kept in zip(state.wiring.hooks, meta["hooks"], strict=True):
            hook.restore(kept)
        self.faults.resolve(meta["faults"])
        state.round = snapshot.round

    def model(self) -> dict[str, Tensor]:
        """The average model of the population, by parameter name; one set a cohort."""
        if self._state is None:
            return {}
        found = {}
        cohorts = self._state.wiring.population.cohorts
        for number, cohort in enumerate(cohorts):
            prefix = f"cohort.{number}/" if len(cohorts) > 1 else ""
            for name, value in cohort.model.unflatten(cohort.rows.mean(0)).items():
                found[prefix + name] = value.cpu().contiguous()
        return found


@dataclass
class _State:
    wiring: Wiring
    runner: Streaming | Kept
    book: dict[str, Any]
    round: int = 0
    crew: Crew | None = None

    @property
    def runs(self) -> Streaming | Kept | Crew:
        """What runs rounds."""
        return self.runner if self.crew is None else self.crew

    def gather(self) -> None:
        """Bring here what workers hold."""
        if self.crew is not None:
            self.crew.gather()
