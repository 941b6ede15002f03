"""A shard: some peers of a population, for whom it trains, speaks and hears; somebody else carries what leaves it.

A shard holds one peer in a node, hundreds in a worker process, and all of them in the simulator, which carries
nothing. All three run the same code: ``Kept`` (or ``Streaming``) on a ``Population`` of the held peers only.

    run = find_recipe("dsgd").build({"peers": 8})   # a ``learning.Run``: checked, nothing built yet
    shard = Shard(run, [3], remote=True)            # ConfigError, by name, for a part that cannot be split so
    for t in range(1, run.rounds + 1):
        weather = shard.weather(t)                  # faults of the schedule: the same everywhere
        plan = shard.plan(t, weather)               # the same everywhere: overlays follow from (t, members, seed)
        steps = shard.round(t, plan, weather)       # a generator: nothing runs until it is asked
        try:
            swap = next(steps)                      # trains up to the first exchange, and speaks
            while True:
                heard = await carry(swap)           # {address: bytes}; may be fewer than expected, and wrong bytes
                swap = steps.send(heard)            # hears, trains, speaks again
        except StopIteration as done:
            report = done.value                     # who trained, what it cost, losses, events

``Swap.packets`` are what the held peers say, ``Swap.routes`` whom each message should reach, ``Swap.expect`` what is
waited for. A message that does not come is like one that was lost: its weight goes to those that did come. One that
does not decode, or is not accepted, is dropped, counted (``report.rejected``) and told (``report.events``). The
number and order of a round's swaps follow from its plan, so that ``(t, swap.number)`` names a swap everywhere;
``shard.swaps(plan)`` counts them beforehand. ``next`` and ``send`` train, so a node calls them in a thread, where
``advance(steps, heard)`` gives a swap or, at the end, the report: no ``StopIteration`` may leave a thread or coroutine.

State: ``shard.snapshot(t)`` and ``shard.restore(snapshot)``; rows, state and books of the held peers lie in
``shard.wiring.population``, what they sent in ``shard.wiring.meter``, their data in ``shard.wiring.shards``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn.plan import HAND, Exchange, Overlay, Plan
from hubless.learn.population import leaves, tree
from hubless.learn.slots import Hook
from hubless.learn.sums import SWAPS, summed
from hubless.learn.swaps import Packets, Swap, Swapping
from hubless.learn.wire import Cost
from hubless.learn.wiring import Told
from hubless.net.faults import Weather
from hubless.run.record import Snapshot

if TYPE_CHECKING:
    from hubless.learn.learning import Run


@dataclass
class Report:
    """What a round came to at a shard.

    trained:  who trained ``[N]``; of peers held elsewhere, who should have
    holders:  who holds the aggregator role, where it was handed on
    costs:    what the held peers' messages and training cost, in the order of the plan
    rejected: messages that were not used here
    losses:   mean training loss of each peer that trained here; ``places`` its place among all that trained
    events:   what went wrong
    excluded: peers held here whose numbers blew up
    reports:  what the overlay asks of peers, by name
    """

    trained: Tensor
    holders: list[int] | None = None
    costs: list[Cost] = field(default_factory=list)
    rejected: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    places: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    events: list[Told] = field(default_factory=list)
    excluded: list[int] = field(default_factory=list)
    reports: dict[str, dict[int, Tensor]] = field(default_factory=dict)


class Shard:
    """The peers ``held`` of a run; with ``remote`` the others are on machines that are not ours.

    shards: the peers of all shards, where they are known

    Raises ConfigError for a part that needs more than a shard has.
    """

    def __init__(
        self, run: Run, held: Sequence[int], *, remote: bool = False, shards: Sequence[Sequence[int]] = ()
    ) -> None:
        splittable(run, held, remote=remote)
        self.run = run
        self.held = sorted(held)
        self.wiring, self.runner = run.wired(
            torch.tensor(self.held, dtype=torch.int64), remote=remote,
            shards=[torch.tensor(ids, dtype=torch.int64) for ids in shards],
        )  # fmt: skip
        self._planned = 0
        self.book = run.learning.overlay.init(run.world(self.wiring, run.faults.at(1)))

    def weather(self, t: int) -> Weather:
        """What the schedule of faults does in round t."""
        return self.run.weather(t, self.book)

    def plan(self, t: int, weather: Weather) -> Plan:
        """The plan of round t, from this shard's own copy of the overlay's memory."""
        self._planned = t
        return self.run.learning.overlay.plan(t, self.run.world(self.wiring, weather), self.book)

    def swaps(self, plan: Plan) -> int:
        """How many swaps a round of that plan has."""
        if self.wiring.population.whole:
            return 0
        attack = self.run.attack
        look = attack is not None and attack.sees == "honest"
        found = 0
        for step in plan:
            if isinstance(step, Exchange):
                hidden = step.name != HAND and self.run.codec.hides and summed(step)
                found += (SWAPS if hidden else 1) + (look and step.name != HAND)
        return found

    def round(self, t: int, plan: Plan, weather: Weather) -> Swapping[Report]:
        """One round: yields swaps, is sent what came."""
        wiring, meter = self.wiring, self.wiring.meter
        wiring.begin()
        wiring.events.clear()
        meter.costs.clear()
        rejected, excluded = meter.rejected, set(wiring.population.excluded)
        outcome = yield from self.runner.steps(t, plan, weather)
        if outcome.holders is not None and self._planned == t:
            self.run.learning.overlay.handed(outcome.holders, self.book)
        losses = torch.cat(wiring.losses) if wiring.losses else torch.zeros(0)
        places = torch.cat(wiring.places) if wiring.places else torch.zeros(0, dtype=torch.int64)
        return Report(
            outcome.trained, outcome.holders, list(meter.costs), meter.rejected - rejected, losses, places,
            list(wiring.events), sorted(wiring.population.excluded - excluded), self.reports(),
        )  # fmt: skip

    def reports(self) -> dict[str, dict[int, Tensor]]:
        """What the overlay asks of the peers held here."""
        return reported(self.run.learning.overlay, self.wiring.population.cohorts)

    def snapshot(self, t: int) -> Snapshot:
        """The state of the held peers after round t; its tensors are the shard's own."""
        population, meter = self.wiring.population, self.wiring.meter
        book = dict(leaves(self.book))
        tensors = {**population.tensors(), "meter/sent": meter.sent}
        tensors |= {f"overlay/{path}": value for path, value in book.items() if isinstance(value, Tensor)}
        meta = {
            "population": population.scalars(),
            "meter": meter.scalars(),
            "overlay": {path: value for path, value in book.items() if not isinstance(value, Tensor)},
            "faults": self.run.faults.resolved(),
        }
        return Snapshot(t, tensors, copy.deepcopy(meta))

    def restore(self, snapshot: Snapshot) -> None:
        """Go on after a snapshot, of this shard or of the whole population. Raises CheckpointError."""
        meta, population = copy.deepcopy(snapshot.meta), self.wiring.population
        tensors = dict(snapshot.tensors)
        for number, cohort in enumerate(population.cohorts):
            everyone = torch.nonzero(population.shape_of == number).flatten()
            mine = torch.searchsorted(everyone, cohort.ids)
            for name, value in tensors.items():
                if name.startswith(f"cohort.{number}/") and len(value) == len(everyone) != len(cohort.ids):
                    tensors[name] = value[mine]
        population.restore(tensors, meta["population"])
        for books in (population.books, population.attack_books):
            for peer in [peer for peer in books if not bool(population.held[peer])]:
                del books[peer]
        self.wiring.meter.restore(snapshot.tensors["meter/sent"], meta["meter"])
        self.book = tree("overlay", snapshot.tensors, meta["overlay"])
        self.run.faults.resolve(meta["faults"])

    def adopt(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Take up the state of exactly the peers that are held."""
        self.wiring.population.restore(tensors, scalars)

    def close(self) -> None:
        """End its threads."""
        self.wiring.workers.close()


def advance(steps: Swapping[Report], heard: Packets | None) -> Swap | Report:
    """On to the next swap of a round, or to its end; ``heard`` is None at the beginning."""
    try:
        return next(steps) if heard is None else steps.send(heard)
    except StopIteration as done:
        report: Report = done.value
        return report


def reported(overlay: Overlay, cohorts: Sequence[Any]) -> dict[str, dict[int, Tensor]]:
    """What an overlay asks of the peers of some cohorts, by name."""
    found: dict[str, dict[int, Tensor]] = {name: {} for name in overlay.reports}
    for cohort in cohorts:
        for name in overlay.reports:
            if name in cohort.state:
                found[name] |= dict(zip(cohort.ids.tolist(), cohort.state[name], strict=True))
    return found


def splittable(run: Run, held: Sequence[int], *, remote: bool) -> None:
    """Raise ConfigError, naming the part, where a shard of these peers could not do what a whole population does."""
    where = "a node does not have" if remote else "a shard does not have"
    if not held or len(set(held)) < len(held) or not set(held) <= set(range(run.n)):
        raise ConfigError(f"held = {list(held)[:9]}: must be some of the {run.n} peers, each once")
    if len(held) == run.n and not remote:
        return
    if judges := [hook for hook in run.learning.hooks if hook.needs_messages]:
        raise ConfigError(f"hooks: {type(judges[0]).__name__} sees the messages of all peers, which {where}")
    if run.attack is not None and run.hostile:
        name = type(run.attack).__name__
        if run.attack.sees == "honest" and remote:
            raise ConfigError(f"attack: {name} needs the honest peers' messages, which {where}")
        if run.attack.joint and 0 < len(run.hostile & set(held)) < len(run.hostile):
            raise ConfigError(f"attack: {name} needs all hostile peers in one place, which {where}")
    if remote and run.learning.overlay.reports:
        name = type(run.learning.overlay).__name__
        raise ConfigError(f"overlay: {name} learns from what all peers report, which {where}")
    if remote and (ends := [hook for hook in run.learning.hooks if type(hook).before is not Hook.before]):
        raise ConfigError(f"hooks: {type(ends[0]).__name__} may end the run, which only a whole population can")
