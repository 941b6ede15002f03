"""Rounds of a population in which every peer keeps a model of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hubless.learn.handover import hand
from hubless.learn.inboxes import exchange_messages
from hubless.learn.moment import Moment
from hubless.learn.plan import HAND, Exchange, Plan, Train
from hubless.learn.population import Cohort
from hubless.learn.training import Trained
from hubless.learn.whole import WholeRows
from hubless.learn.wire import deliver
from hubless.learn.wiring import Outcome, Wiring
from hubless.net.faults import Weather


class Kept:
    """Runs plans on rows ``[N, D]``."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.population = wiring.population
        self._whole = WholeRows(wiring)
        self._starts: dict[int, Tensor] = {}
        self._roles: dict[int, str] = {}

    def round(self, t: int, plan: Plan, weather: Weather) -> Outcome:
        """One round."""
        reached: dict[str, Tensor] = {}
        outcome = Outcome(torch.zeros(self.wiring.n, dtype=torch.bool))
        self._starts, self._roles = {}, {}
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                self._train(step, t, k, weather, reached, outcome.trained)
                continue
            moment = Moment(self.wiring, step, t, k, self._starts, self._roles)
            if step.name == HAND:
                outcome.holders = self._hand(moment, weather)
            else:
                reached[step.name] = self._exchange(moment, weather, outcome.trained)
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
                here = peers[self.population.cohort_of[peers] == number]
                for part, hostile in self.wiring.split(here):
                    self._train_cohort(cohort, part, role, t, k, hostile, work, trained)
        self.wiring.meter.clock += float(self.wiring.links.train_time(work.numpy(), weather.slow).max())

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
            fine = wiring.sound(done, t)
            if not bool(fine.all()):
                trained[done.peers[~fine]] = False
                at, done = at[fine], done.only(fine)
            wiring.losses.append(done.losses)
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

    def _exchange(self, moment: Moment, weather: Weather, trained: Tensor) -> Tensor:
        exchange: Exchange = moment.exchange
        delivery = deliver(exchange, weather, moment.k, trained if exchange.collect else None)
        if self._whole.fits(exchange):
            self._whole.exchange(moment, delivery)
        else:
            exchange_messages(moment, delivery)
        return moment.reached(delivery.kept[1])

    def _hand(self, moment: Moment, weather: Weather) -> list[int]:
        exchange, merge = moment.exchange, self.wiring.merge
        holder = int(exchange.src[0])
        cohort, w, s = self.population.peer(holder)
        names = () if merge.beside else merge.share or cohort.model.shared
        groups = {name: w[cohort.model.groups[name]] for name in names}
        alike = {*merge.common, *(cohort.model.shared_buffers if merge.share is None else ())}
        common = {name: value for name, value in s.items() if name in alike}
        heirs = hand(self.wiring, exchange, moment.k, weather, {**groups, **common})
        for peer in heirs:
            if peer != holder:
                other, row, state = self.population.peer(peer)
                moment.put(peer, other.model.paste(row, groups), {**state, **common})
        return heirs
