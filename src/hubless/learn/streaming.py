"""Rounds of a population that shares one model: nobody trains before receiving it, so it is stored once.

The plan is down, train, up (and hand). Updates are summed as chunks of peers finish; memory does not grow with the
number of peers, unless the merge has to see every message.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.slots import HAND, Exchange, Plan, Train
from hubless.learn.training import Trained
from hubless.learn.wire import charge, deliver
from hubless.learn.wiring import Wiring
from hubless.net.faults import Weather


class Streaming:
    """Runs plans of a shared overlay on one row ``[1, D]``; what a merge calls common is stored once, too."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.cohort = wiring.population.cohorts[0]
        self.model = self.cohort.model

    def round(self, t: int, plan: Plan, weather: Weather) -> Tensor:
        """One round; returns which peers trained ``[N]``."""
        trained = torch.zeros(self.wiring.n, dtype=torch.bool)
        reached: dict[str, Tensor] = {}
        seen: tuple[Tensor, State] | None = None
        waiting: list[tuple[int, Train]] = []
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                waiting.append((k, step))
            elif step.name == HAND:
                self._hand(step, t, k, weather)
            elif step.collect:
                assert seen is not None
                self._collect(step, t, k, weather, waiting, reached, seen, trained)
            else:
                reached[step.name], seen = self._broadcast(step, t, k, weather)
        return trained

    def _own(self) -> tuple[Tensor, State]:
        """The shared row and the state that is alike everywhere."""
        return self.cohort.rows[0], {n: v[0] for n, v in self.cohort.state.items() if self._alike(n)}

    def _alike(self, name: str) -> bool:
        return name in self.model.buffers or name in self.cohort.common

    def _broadcast(self, step: Exchange, t: int, k: int, weather: Weather) -> tuple[Tensor, tuple[Tensor, State]]:
        wiring, merge = self.wiring, self.wiring.merge
        w, s = self._own()
        delivery = deliver(step, weather, k, None)
        reached = torch.zeros(wiring.n, dtype=torch.bool)
        reached[delivery.kept[1]] = True
        hub = int(step.src[0]) if len(step.src) else 0
        ctx = self._context(hub, t, k, step.name)
        m = merge.message(w, s, wiring.population.book(hub), ctx)
        if wiring.codec.plain:
            size = wiring.codec.length(m)
        else:
            data, _ = wiring.codec.encode(m, s, ctx)
            size, m = len(data), wiring.codec.decode(data, ctx)
        charge(wiring.meter, delivery, size, wiring.links)
        return reached, merge.apply(w, s, {}, m, ctx)

    def _collect(
        self, step: Exchange, t: int, k: int, weather: Weather, waiting: list[tuple[int, Train]],
        reached: dict[str, Tensor], seen: tuple[Tensor, State], trained: Tensor,
    ) -> None:  # fmt: skip
        wiring, merge = self.wiring, self.wiring.merge
        hub = int(step.dst[0]) if len(step.dst) else 0
        ready = torch.zeros(wiring.n, dtype=torch.bool)
        for _, train in waiting:
            for role in train.roles:
                ready[wiring.ready(train, role, weather, reached)] = True
        delivery = deliver(step, weather, k, ready)
        arrives = torch.zeros(wiring.n, dtype=torch.float64)
        src, _, weight = delivery.kept
        arrives[src] = weight
        box = Gathered(arrives, keep=not merge.reduce.linear or wiring.judges or self._omniscient)
        sizes = torch.zeros(wiring.n, dtype=torch.float64)
        for peer, m, size in self._messages(step, t, k, weather, waiting, reached, seen, trained):
            sizes[peer] = size
            if float(arrives[peer]) > 0 and m is not None:
                box.add(peer, m)
        charge(wiring.meter, delivery, sizes[delivery.src], wiring.links)
        self._judge(step, box)
        got, ids = box.joined(wiring, self, seen, hub, t, k)
        if got:
            book = wiring.population.book(hub)
            w, s = self._own()
            ctx = self._context(hub, t, k, step.name, group=tuple(step.src.tolist()), senders=ids, counts=box.counts)
            w, s = merge.apply(w, s, book, got, ctx)
            self.cohort.rows = w[None].clone()
            for name, value in s.items():
                if self._alike(name):
                    self.cohort.state[name] = value[None].clone()

    @property
    def _omniscient(self) -> bool:
        return self.wiring.attack is not None and self.wiring.attack.sees == "honest"

    def _judge(self, step: Exchange, box: Gathered) -> None:
        for hook in self.wiring.hooks:
            if hook.needs_messages and box.kept:
                factors = hook.judge(step, {peer: m for peer, m in box.kept}, self.wiring.population)
                for peer, factor in (factors or {}).items():
                    box.weights[peer] *= factor

    def _messages(
        self, step: Exchange, t: int, k: int, weather: Weather, waiting: list[tuple[int, Train]],
        reached: dict[str, Tensor], seen: tuple[Tensor, State], trained: Tensor,
    ) -> Iterator[tuple[int, Message | None, int]]:  # fmt: skip
        """Every participant's message as it arrives, in the order of chunks; honest peers before those who look."""
        wiring = self.wiring
        work = torch.zeros(wiring.n)
        honest: list[Message] = []
        late: list[tuple[int, Message, Context, State]] = []
        for at, train in waiting:
            for role in train.roles:
                peers = wiring.ready(train, role, weather, reached)
                trained[peers] = True
                for part, hostile in wiring.split(peers):
                    for done in self._train(part, role, t, at, hostile, seen, work):
                        for peer, m, ctx, s in self._spoken(done, step, t, k, role):
                            if self._omniscient and peer in wiring.hostile:
                                late.append((peer, m, ctx, s))
                                continue
                            if self._omniscient:
                                honest.append(m)
                            yield self._sent(peer, m, ctx, s, None)
        for peer, m, ctx, s in late:
            yield self._sent(peer, m, ctx, s, honest)
        wiring.meter.clock += float(wiring.links.train_time(work.numpy(), weather.slow).max())

    def _train(
        self, peers: Tensor, role: str, t: int, k: int, hostile: bool, seen: tuple[Tensor, State], work: Tensor
    ) -> Iterator[Trained]:
        wiring = self.wiring
        job = wiring.jobs(role, t, k, self.model, hostile)
        work[peers] += job.samples(peers)
        chunks = job.chunks(peers, wiring.workers.count)
        w, s = seen

        def visit(number: int) -> Trained:
            peers = chunks[number]
            rows = w.expand(len(peers), -1).contiguous()
            _, state = self.cohort.take(peers)
            for name, value in s.items():
                state[name] = value.expand(len(peers), *value.shape).clone()
            data = wiring.poison(t, k, self.model, peers, rows) if hostile else {}
            return job.run(peers, rows, state, data)

        for done in wiring.workers.map(visit, len(chunks)):
            fine = wiring.sound(done, t)
            if not bool(fine.all()):
                done = done.only(fine)
            wiring.losses.append(done.losses)
            own = {name: value for name, value in done.state.items() if not self._alike(name)}
            self.cohort.put(done.peers, None, own)
            yield done

    def _spoken(
        self, done: Trained, step: Exchange, t: int, k: int, role: str
    ) -> Iterator[tuple[int, Message, Context, State]]:
        merge = self.wiring.merge
        kind = merge.kind(step.name)
        stacked: Message | None = None
        if merge.vectorised and len(done.peers):
            ctx = self.wiring.context(
                t, k, self.model, done.peers, phase=step.name, kind=kind, role=role, start=done.start
            )
            stacked = merge.message(done.rows, done.state, {}, ctx)
        for at, peer in enumerate(done.peers.tolist()):
            ctx = self._context(peer, t, k, step.name, role=role, start=done.start[at])
            s = {name: value[at] for name, value in done.state.items()}
            if stacked is None:
                m = merge.message(done.rows[at], s, self.wiring.population.book(peer), ctx)
            else:
                m = {name: value[at] for name, value in stacked.items()}
            yield peer, m, ctx, s

    def _sent(
        self, peer: int, m: Message, ctx: Context, s: State, honest: list[Message] | None
    ) -> tuple[int, Message | None, int]:
        """A message after attack, codec and acceptance; None when it must not be used."""
        wiring = self.wiring
        checked = peer in wiring.hostile or not wiring.codec.plain
        if peer in wiring.hostile:
            m = wiring.lie(m, ctx, honest)
        try:
            if wiring.codec.plain:
                size = wiring.codec.length(m)
            else:
                data, fresh = wiring.codec.encode(m, s, ctx)
                size = len(data)
                self.cohort.put(
                    torch.tensor([peer]), None, {n: v[None] for n, v in fresh.items() if not self._alike(n)}
                )
                m = wiring.codec.decode(data, ctx)
            if checked:
                wiring.merge.accept(peer, m, ctx)
        except MessageError as error:
            wiring.meter.rejected += 1
            wiring.events.append(f"message of peer {peer} refused: {error}")
            return peer, None, size
        return peer, m, size

    def _context(self, peer: int, t: int, k: int, phase: str, **more: object) -> Context:
        more.setdefault("start", self.cohort.rows[0])
        kind = self.wiring.merge.kind(phase)
        return self.wiring.context(t, k, self.model, peer, phase=phase, kind=kind, **more)

    def _hand(self, step: Exchange, t: int, k: int, weather: Weather) -> None:
        wiring, merge = self.wiring, self.wiring.merge
        delivery = deliver(step, weather, k, None)
        w, s = self._own()
        holder = int(step.src[0])
        book = wiring.population.book(holder)
        role = {name: book.pop(name) for name in merge.role if name in book}
        state = {name: value for name, value in role.items() if isinstance(value, Tensor)}
        common = {name: s[name] for name in merge.common if name in s}
        charge(wiring.meter, delivery, wiring.codec.packer.length({"w": w, **common, **state}), wiring.links)
        heirs = delivery.kept[1].tolist()
        if not heirs and weather.alive[holder]:
            raise ConfigError(f"round {t}: the aggregator role of peer {holder} reached nobody")
        for peer in heirs or [holder]:
            wiring.population.book(peer).update(role)


class Gathered:
    """What an aggregator has received: sums as they come, or every message where that is needed.

    Sums run peer after peer in the order in which chunks were made, so that they do not depend on threads.
    """

    def __init__(self, weights: Tensor, *, keep: bool) -> None:
        self.weights = weights
        self.keep = keep
        self.kept: list[tuple[int, Message]] = []
        self.counts: dict[str, int] = {}
        self._sums: Message = {}
        self._totals: dict[str, float] = {}
        self._ids: list[int] = []

    def add(self, peer: int, m: Message) -> None:
        """One message."""
        self._ids.append(peer)
        for name, value in m.items():
            self.counts[name] = self.counts.get(name, 0) + 1
            if self.keep:
                continue
            weight = float(self.weights[peer])
            self._totals[name] = self._totals.get(name, 0.0) + weight
            if name in self._sums:
                self._sums[name].add_(value, alpha=weight)
            else:
                self._sums[name] = value * weight
        if self.keep:
            self.kept.append((peer, {name: value.clone() for name, value in m.items()}))

    def joined(
        self, wiring: Wiring, streaming: Streaming, seen: tuple[Tensor, State], hub: int, t: int, k: int
    ) -> tuple[Message, tuple[int, ...]]:
        """One message from all, and who sent; empty when nothing usable came."""
        ids = tuple(sorted(self._ids))
        if not self.keep:
            return {name: value / self._totals[name] for name, value in self._sums.items()}, ids
        usable = sorted(((peer, m) for peer, m in self.kept if float(self.weights[peer]) > 0), key=lambda pair: pair[0])
        if not usable:
            return {}, ()
        ids = tuple(peer for peer, _ in usable)
        weights = self.weights[list(ids)].to(torch.float32)
        ctx = streaming._context(hub, t, k, "up", senders=ids, counts=self.counts)
        book = wiring.population.book(hub)
        return wiring.merge.join(Inbox(ids, weights, [m for _, m in usable]), *seen, book, ctx), ids
