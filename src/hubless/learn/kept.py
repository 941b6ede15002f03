"""Rounds of peers that keep models of their own: a whole population, or a shard of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hubless.learn.context import Message
from hubless.learn.handover import hand
from hubless.learn.inboxes import exchange_messages
from hubless.learn.moment import Moment
from hubless.learn.plan import HAND, Exchange, Plan, Train
from hubless.learn.population import Cohort
from hubless.learn.swaps import Swapping, alone
from hubless.learn.training import Trained
from hubless.learn.whole import WholeRows
from hubless.learn.wire import deliver
from hubless.learn.wiring import Outcome, Wiring
from hubless.net.faults import Weather


class Kept:
    """Runs plans on the rows ``[n, D]`` of the peers that are held."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.population = wiring.population
        self._whole = WholeRows(wiring)
        self._starts: dict[int, Tensor] = {}
        self._roles: dict[int, str] = {}
        self._numbers: Iterator[int] = itertools.count()

    def round(self, t: int, plan: Plan, weather: Weather) -> Outcome:
        """One round of a whole population."""
        return alone(self.steps(t, plan, weather))

    def steps(self, t: int, plan: Plan, weather: Weather) -> Swapping[Outcome]:
        """One round, stopping wherever messages must be carried between shards."""
        reached: dict[str, Tensor] = {}
        outcome = Outcome(torch.zeros(self.wiring.n, dtype=torch.bool))
        self._starts, self._roles, self._numbers = {}, {}, itertools.count()
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                self._train(step, t, k, weather, reached, outcome.trained)
                continue
            moment = Moment(self.wiring, step, t, k, self._starts, self._roles, self._numbers)
            if step.name == HAND:
                outcome.holders = yield from self._hand(moment, weather)
            else:
                reached[step.name] = yield from self._exchange(moment, weather, outcome.trained)
        return outcome

    def _train(
        self, step: Train, t: int, k: int, weather: Weather, reached: Mapping[str, Tensor], trained: Tensor
    ) -> None:
        work = torch.zeros(self.wiring.n)
        for role in step.roles:
            peers = self.wiring.ready(step, role, weather, reached)
            trained[peers] = True
            peers = self._behind(peers)
            self._roles |= dict.fromkeys(peers.tolist(), role)
            for number, cohort in enumerate(self.population.cohorts):
                here = peers[self.population.shape_of[peers] == number]
                for part, hostile in self.wiring.split(here):
                    self._train_cohort(cohort, part, role, t, k, hostile, work, trained)
        seconds = float(self.wiring.links.train_time(work.numpy(), weather.slow).max())
        self.wiring.meter.count(seconds, self.wiring.links)

    def _behind(self, peers: Tensor) -> Tensor:
        """Who trains for these peers: the identities of one attacker train once."""
        attack = self.wiring.attack
        if attack is None or not attack.joint:
            return peers
        return torch.tensor(sorted({self.wiring.behind(peer) for peer in peers.tolist()}), dtype=torch.int64)

    def _train_cohort(
        self, cohort: Cohort, peers: Tensor, role: str, t: int, k: int, hostile: bool, work: Tensor, trained: Tensor
    ) -> None:
        wiring = self.wiring
        job = wiring.jobs(role, t, k, cohort.model, hostile)
        place = None
        if wiring.meter.held is not None:
            place = wiring.line_up(job.chunks(peers, wiring.workers.count))
            peers = peers[self.population.held[peers]]
        work[peers] += job.samples(peers)
        chunks = job.chunks(peers, wiring.workers.count)

        def visit(number: int) -> Trained:
            at = self.population.place[chunks[number]]
            own = cohort.view(at) if job.local.fusable and self._forgets(chunks[number]) else None
            start = cohort.rows[at] if own is None else own
            data = wiring.poison(t, k, cohort.model, chunks[number], start) if hostile else {}
            return job.run(chunks[number], start, cohort.entries(at), data, own)

        for done in wiring.workers.map(visit, len(chunks)):
            at = self.population.place[done.peers]
            self._remember(done)
            fine = wiring.sound(done, t, k, place)
            if not bool(fine.all()):
                trained[done.peers[~fine]] = False
                at, done = at[fine], done.only(fine)
            wiring.losses.append(done.losses)
            if place is not None:
                wiring.places.append(place[done.peers])
            cohort.put(at, None if done.rows is done.start else done.rows, done.state)

    def _forgets(self, peers: Tensor) -> bool:
        """Whether nobody needs these peers' rows before training, so that they may be trained in place."""
        wiring = self.wiring
        return not wiring.curious and wiring.nonfinite == "stop" and wiring.hostile.isdisjoint(peers.tolist())

    def _remember(self, done: Trained) -> None:
        """Rows before training: of everyone where a part may ask, of hostile peers where only the attack does."""
        for at, peer in enumerate(done.peers.tolist()):
            if self.wiring.curious or peer in self.wiring.hostile:
                self._starts.setdefault(peer, done.start[at])

    def _exchange(self, moment: Moment, weather: Weather, trained: Tensor) -> Swapping[Tensor]:
        exchange: Exchange = moment.exchange
        delivery = deliver(exchange, weather, moment.k, trained if exchange.collect else None)
        if self._whole.fits(exchange):
            delivery = yield from self._whole.exchange(moment, delivery)
        else:
            delivery = yield from exchange_messages(moment, delivery)
        return moment.reached(delivery.kept[1])

    def _hand(self, moment: Moment, weather: Weather) -> Swapping[list[int]]:
        holder = int(moment.exchange.src[0])
        here = bool(self.population.held[holder])
        heirs, said = yield from hand(moment, weather, self._handed(holder) if here else None)
        for peer in heirs:
            if peer != holder and bool(self.population.held[peer]):
                other, row, state = self.population.peer(peer)
                common = {name: value for name, value in said.items() if name in state}
                moment.put(peer, other.model.paste(row, said), {**state, **common})
        return heirs

    def _handed(self, holder: int) -> Message:
        """What goes to the next holders of the role: the model, and state that is alike everywhere."""
        merge = self.wiring.merge
        cohort, w, s = self.population.peer(holder)
        names = () if merge.beside else merge.share or cohort.model.shared
        groups = {name: w[cohort.model.groups[name]] for name in names}
        alike = {*merge.common, *(cohort.model.shared_buffers if merge.share is None else ())}
        return {**groups, **{name: value for name, value in s.items() if name in alike}}
