"""Rounds of a population that shares one model: nobody trains before receiving it, so it is stored once.

The plan is down, train, up (and hand). Updates are summed as chunks of peers finish; memory does not grow with the
number of peers, unless a part has to see every message.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.context import Context, Message, State
from hubless.learn.gathered import Gathered
from hubless.learn.handover import hand
from hubless.learn.moment import Moment
from hubless.learn.plan import HAND, Exchange, Plan, Train
from hubless.learn.swaps import Swapping, alone
from hubless.learn.training import Trained
from hubless.learn.wire import Delivery, charge, deliver
from hubless.learn.wiring import Outcome, Wiring
from hubless.net.faults import Weather

Model = tuple[Tensor, State]  # a row [D] and the state that is alike everywhere
Late = list[tuple[int, Message, Context, State]]  # who speaks after all others


@dataclass(frozen=True)
class Visit:
    """A chunk that has trained: its messages ``[C, ...]`` where they can be stacked, and their sums where those do.

    everyone: the peers of the chunk, wherever they are held
    simple:   whether nothing happens to their messages but that they are summed
    """

    everyone: Tensor
    simple: bool
    done: Trained
    context: Context
    said: Message | None
    sums: Message | None


class Streaming:
    """Runs plans of a shared overlay on one row ``[1, D]``; what a merge calls common is stored once, too."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.cohort = wiring.population.cohorts[0]
        self.model = self.cohort.model
        self._here = threading.local()

    def steps(self, t: int, plan: Plan, weather: Weather) -> Swapping[Outcome]:
        """One round, of a whole population only."""
        yield from ()
        return self.round(t, plan, weather)

    def round(self, t: int, plan: Plan, weather: Weather) -> Outcome:
        """One round."""
        outcome = Outcome(torch.zeros(self.wiring.n, dtype=torch.bool))
        trained = outcome.trained
        reached: dict[str, Tensor] = {}
        seen: Model = self._own()
        waiting: list[tuple[int, str, Tensor]] = []
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                for role in step.roles:
                    peers = self.wiring.ready(step, role, weather, reached)
                    trained[peers] = True
                    waiting.append((k, role, peers))
            elif step.name == HAND:
                outcome.holders = self._hand(step, t, k, weather)
            elif step.collect:
                self._collect(step, t, k, weather, waiting, seen, trained)
                waiting = []  # a plan may collect more than once
            else:
                reached[step.name], seen = self._broadcast(step, t, k, weather)
        return outcome

    def _own(self) -> Model:
        return self.cohort.rows[0], {n: v[0] for n, v in self.cohort.state.items() if self._alike(n)}

    def _alike(self, name: str) -> bool:
        return name in self.model.buffers or name in self.cohort.common

    def _context(self, peer: int, t: int, k: int, phase: str, **more: object) -> Context:
        more.setdefault("start", self.cohort.rows[0])
        kind = self.wiring.merge.kind(phase)
        return self.wiring.context(t, k, self.model, peer, phase=phase, kind=kind, **more)

    def _keep(self, peer: int, s: State) -> None:
        """Write back what one peer has for itself."""
        own = {name: value[None] for name, value in s.items() if not self._alike(name)}
        self.cohort.put(self._at(torch.tensor([peer])), None, own)

    def _at(self, peers: Tensor) -> Tensor:
        """Places of peers in the cohort."""
        return self.wiring.population.place[peers]

    # down

    def _broadcast(self, step: Exchange, t: int, k: int, weather: Weather) -> tuple[Tensor, Model]:
        delivery = deliver(step, weather, k, None)
        return self._heard_down(step, t, k, delivery, self._said_down(step, t, k, delivery))

    def _heard_down(
        self, step: Exchange, t: int, k: int, delivery: Delivery, m: Message | None
    ) -> tuple[Tensor, Model]:
        """Whom a broadcast reached, and what they have then; None: nobody could use it."""
        reached = torch.zeros(self.wiring.n, dtype=torch.bool)
        reached[delivery.kept[1]] = True
        hub = int(step.src[0]) if len(step.src) else 0
        if m is None:
            return reached & (torch.arange(self.wiring.n) == hub), self._own()
        return reached, self.wiring.merge.apply(*self._own(), {}, m, self._context(hub, t, k, step.name))

    def _said_down(self, step: Exchange, t: int, k: int, delivery: Delivery) -> Message | None:
        """The aggregator's message as its receivers decode it."""
        wiring, merge = self.wiring, self.wiring.merge
        w, s = self._own()
        hub = int(step.src[0]) if len(step.src) else 0
        ctx = self._context(hub, t, k, step.name)
        m = merge.message(w, s, wiring.population.book(hub), ctx)
        if hub in wiring.hostile:
            m = wiring.lie(m, ctx, [])
        size = 0
        refusal: MessageError | None = None
        try:
            if wiring.codec.plain:
                size = wiring.codec.length(m)
            else:
                state = self.cohort.entries(self._at(torch.tensor([hub])))
                data, fresh = wiring.codec.encode(m, {name: value[0] for name, value in state.items()} | s, ctx)
                size = len(data)
                self._keep(hub, fresh)
                m = wiring.codec.decode(data, ctx)
            if hub in wiring.hostile or not wiring.codec.plain:
                merge.accept(hub, m, ctx)
        except MessageError as error:
            refusal = error
        charge(wiring.meter, delivery, size, wiring.links)
        if refusal is not None:
            wiring.meter.rejected += int((delivery.kept[1] != hub).sum())
            wiring.tell(f"message of peer {hub} refused: {refusal}", k, 4, hub)
            return None
        return m

    # train and up

    def _collect(
        self, step: Exchange, t: int, k: int, weather: Weather, waiting: list[tuple[int, str, Tensor]],
        seen: Model, trained: Tensor,
    ) -> None:  # fmt: skip
        wiring = self.wiring
        delivery = deliver(step, weather, k, trained)
        src, _, weight = delivery.kept
        arrives = torch.zeros(wiring.n, dtype=torch.float64)
        arrives[src] = weight
        box = self._box(arrives)
        sizes = torch.zeros(wiring.n, dtype=torch.float64)
        late: Late = []
        honest: dict[int, Message] = {}  # as they are meant, before any codec
        for visit in self._visits(step, t, k, weather, waiting, seen, box, trained):
            if visit.sums is not None and visit.said is not None:
                box.add_sums(visit.done.peers, visit.sums)
                sizes[visit.done.peers] = float(wiring.codec.length({n: v[0] for n, v in visit.said.items()}))
                continue
            self._say(visit, box, sizes, honest, late)
        for peer, m, ctx, s in late:
            sizes[peer] = self._send(box, peer, m, ctx, s, [honest[one] for one in sorted(honest)])
        delivery = deliver(step, weather, k, trained)  # those whose numbers blew up sent nothing
        charge(wiring.meter, delivery, sizes[delivery.src], wiring.links)
        for peer, factor in wiring.judged(step, box.kept).items():
            box.weights[peer] *= factor
        if box.senders:
            self._conclude(step, t, k, box, seen)

    def _box(self, weights: Tensor) -> Gathered:
        wiring = self.wiring
        return Gathered(weights, keep=not wiring.merge.reduce.linear or wiring.judges or self._omniscient)

    @property
    def _omniscient(self) -> bool:
        return self.wiring.attack is not None and self.wiring.attack.sees == "honest"

    def _visits(
        self, step: Exchange, t: int, k: int, weather: Weather, waiting: list[tuple[int, str, Tensor]],
        seen: Model, box: Gathered, trained: Tensor,
    ) -> Iterator[Visit]:  # fmt: skip
        wiring = self.wiring
        work = torch.zeros(wiring.n)
        hub = int(step.dst[0]) if len(step.dst) else 0
        for at, role, peers in waiting:
            for part, hostile in wiring.split(peers):
                job = wiring.jobs(role, t, at, self.model, hostile)
                chunks = job.chunks(part, wiring.workers.count)
                place = None if wiring.meter.held is None else wiring.line_up(chunks)
                pieces = self._pieces(chunks)
                for _, mine in pieces:
                    work[mine] += job.samples(mine)

                def visit(number: int, job=job, pieces=pieces, hostile=hostile, at=at) -> Visit:  # type: ignore[no-untyped-def]
                    everyone, mine = pieces[number]
                    rows, state = self._received(mine, seen, hub)
                    data = wiring.poison(t, at, self.model, mine, rows) if hostile else {}
                    simple = self._simple(everyone, box)
                    whole = simple and len(mine) == len(everyone)
                    done = job.run(mine, rows, state, data, self._desk(rows) if whole else None)
                    return self._spoke(done, step, t, k, job.role, box, everyone, simple)

                for result in wiring.workers.map(visit, len(pieces)):
                    settled = self._settled(result, t, at, trained, place)
                    if place is not None:
                        wiring.places.append(place[settled.done.peers])
                    yield settled
        wiring.meter.count(float(wiring.links.train_time(work.numpy(), weather.slow).max()), wiring.links)

    def _pieces(self, chunks: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Chunks, each with those of its peers that are held here; one that has none is left out."""
        if self.wiring.population.whole:
            return [(chunk, chunk) for chunk in chunks]
        held = self.wiring.population.held
        return [(chunk, mine) for chunk in chunks if len(mine := chunk[held[chunk]])]

    def _received(self, peers: Tensor, seen: Model, hub: int) -> tuple[Tensor, State]:
        """Rows and state of a chunk after the broadcast; the aggregator keeps what it has itself."""
        rows, state = seen[0].expand(len(peers), -1), self.cohort.entries(self._at(peers))
        state |= {name: value.expand(len(peers), *value.shape).clone() for name, value in seen[1].items()}
        if bool((here := peers == hub).any()):
            w, s = self._own()
            rows = torch.where(here[:, None].to(w.device), w, rows) if w is not seen[0] else rows
            for name, value in s.items():
                state[name][here] = value
        return rows, state

    def _simple(self, peers: Tensor, box: Gathered) -> bool:
        """Whether nothing happens to these peers' messages but that they are summed."""
        wiring = self.wiring
        plain = wiring.merge.vectorised and wiring.codec.plain and not box.keep
        return plain and wiring.hostile.isdisjoint(peers.tolist())

    def _desk(self, rows: Tensor) -> Tensor:
        """Memory of this thread for rows that are summed at once: fresh memory costs more than the copying."""
        desks: dict[torch.Size, Tensor] = self._here.__dict__.setdefault("desks", {})
        if rows.shape not in desks:
            desks[rows.shape] = torch.empty(rows.shape, device=rows.device)
        return desks[rows.shape]

    def _spoke(
        self, done: Trained, step: Exchange, t: int, k: int, role: str, box: Gathered, everyone: Tensor, simple: bool
    ) -> Visit:
        """In the worker: messages of the chunk and, where nothing more happens to them, their sums."""
        wiring, merge = self.wiring, self.wiring.merge
        kind = merge.kind(step.name)
        ctx = wiring.context(t, k, self.model, done.peers, phase=step.name, kind=kind, role=role, start=done.start)
        if not merge.vectorised:
            return Visit(everyone, simple, done, ctx, None, None)
        whole = simple and len(done.peers) == len(everyone)
        if whole and not bool(done.finite.all()):
            done, whole = replace(done, rows=done.rows.clone()), False
        said = merge.message(done.rows, done.state, {}, ctx)
        return Visit(everyone, simple, done, ctx, said, box.partial(done.peers, said) if whole else None)

    def _settled(self, visit: Visit, t: int, k: int, trained: Tensor, place: Tensor | None) -> Visit:
        """Back in the main thread: peers whose numbers blew up are left out, and lasting state is kept."""
        fine = self.wiring.sound(visit.done, t, k, place)
        if not bool(fine.all()):
            trained[visit.done.peers[~fine]] = False
            said = None if visit.said is None else {name: value[fine] for name, value in visit.said.items()}
            visit = replace(visit, done=visit.done.only(fine), said=said, sums=None)
        self.wiring.losses.append(visit.done.losses)
        own = {name: value for name, value in visit.done.state.items() if not self._alike(name)}
        self.cohort.put(self._at(visit.done.peers), None, own)
        return visit

    def _spoken(self, visit: Visit) -> Iterator[tuple[int, Message, Context, State]]:
        done, merge = visit.done, self.wiring.merge
        for at, peer in enumerate(done.peers.tolist()):
            ctx = self.wiring.context(
                visit.context.t, visit.context.k, self.model, peer, phase=visit.context.phase,
                kind=visit.context.kind, role=visit.context.role, start=done.start[at],
            )  # fmt: skip
            s = {name: value[at] for name, value in done.state.items()}
            if visit.said is not None:
                yield peer, {name: value[at] for name, value in visit.said.items()}, ctx, s
            else:
                yield peer, merge.message(done.rows[at], s, self.wiring.population.book(peer), ctx), ctx, s

    def _say(self, visit: Visit, box: Gathered, sizes: Tensor, honest: dict[int, Message], late: Late) -> None:
        """What the peers of a chunk say, one by one; those who want to hear all others first come ``late``."""
        for peer, m, ctx, s in self._spoken(visit):
            if self._omniscient and peer in self.wiring.hostile:
                late.append((peer, m, ctx, s))
                continue
            if self._omniscient:
                honest[peer] = m
            sizes[peer] = self._send(box, peer, m, ctx, s, None)

    def _send(
        self, box: Gathered, peer: int, m: Message, ctx: Context, s: State, honest: list[Message] | None
    ) -> float:
        """A message through attack, codec and acceptance into the box; returns its bytes."""
        wiring = self.wiring
        if peer in wiring.hostile:
            m = wiring.lie(m, ctx, honest)
        size = 0
        try:
            if wiring.codec.plain:
                size = wiring.codec.length(m)
            else:
                data, fresh = wiring.codec.encode(m, s, ctx)
                size = len(data)
                self._keep(peer, fresh)
                m = wiring.codec.decode(data, ctx)
            if peer in wiring.hostile or not wiring.codec.plain:
                wiring.merge.accept(peer, m, ctx)
            if wiring.hostile:
                box.forms.agree(m)
        except MessageError as error:
            wiring.meter.rejected += 1
            wiring.tell(f"message of peer {peer} refused: {error}", ctx.k, 4, peer)
            return size
        box.add(peer, m)
        return size

    def _conclude(self, step: Exchange, t: int, k: int, box: Gathered, seen: Model) -> None:
        """The aggregator makes one message of all and applies it."""
        merge, hub = self.wiring.merge, int(step.dst[0])
        book = self.wiring.population.book(hub)
        group = tuple(step.src.tolist())
        ctx = self._context(hub, t, k, step.name, group=group, senders=box.senders, counts=box.counts)
        got = merge.join(box.inbox(), *seen, book, ctx) if box.keep else box.means()
        if not got:
            return
        w, s = merge.apply(*self._own(), book, got, ctx)
        self.cohort.rows = w[None].clone()
        for name, value in s.items():
            if self._alike(name):
                self.cohort.state[name] = value[None].clone()

    # hand

    def _hand(self, step: Exchange, t: int, k: int, weather: Weather) -> list[int]:
        w, s = self._own()
        groups = {name: w[part] for name, part in self.model.groups.items()}
        moment = Moment(self.wiring, step, t, k, {}, {}, itertools.count())
        return alone(hand(moment, weather, {**groups, **s}))[0]
