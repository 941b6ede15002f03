"""Rounds of a population in which every peer keeps a model of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from hubless.errors import ConfigError, MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.population import Cohort
from hubless.learn.rows import Sums
from hubless.learn.slots import HAND, Exchange, Merge, Plan, Train
from hubless.learn.training import Trained
from hubless.learn.wire import Delivery, charge, deliver
from hubless.learn.wiring import Wiring
from hubless.net.faults import Weather


class Kept:
    """Runs plans on rows ``[N, D]``; linear merges are row sums, others see stacked or single inboxes."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.population = wiring.population
        self._spare: Tensor | None = None
        self._sums: dict[int, tuple[Exchange, Sums]] = {}
        self.starts: dict[int, Tensor] = {}
        self.roles: dict[int, str] = {}

    def round(self, t: int, plan: Plan, weather: Weather) -> Tensor:
        """One round; returns which peers trained ``[N]``."""
        reached: dict[str, Tensor] = {}
        trained = torch.zeros(self.wiring.n, dtype=torch.bool)
        self.starts, self.roles = {}, {}
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                self._train(step, t, k, weather, reached, trained)
            else:
                reached[step.name] = self._exchange(step, t, k, weather, trained)
        return trained

    # training

    def _train(
        self, step: Train, t: int, k: int, weather: Weather, reached: Mapping[str, Tensor], trained: Tensor
    ) -> None:
        work = torch.zeros(self.wiring.n)
        for role in step.roles:
            peers = self.wiring.ready(step, role, weather, reached)
            trained[peers] = True
            self.roles |= dict.fromkeys(peers.tolist(), role)
            for cohort in self.population.cohorts:
                here = peers[self.population.cohort_of[peers] == self._number(cohort)]
                for part, hostile in self.wiring.split(here):
                    self._train_cohort(cohort, part, role, t, k, hostile, work)
        self.wiring.meter.clock += float(self.wiring.links.train_time(work.numpy(), weather.slow).max())

    def _number(self, cohort: Cohort) -> int:
        return self.population.cohorts.index(cohort)

    def _train_cohort(
        self, cohort: Cohort, peers: Tensor, role: str, t: int, k: int, hostile: bool, work: Tensor
    ) -> None:
        wiring = self.wiring
        job = wiring.jobs(role, t, k, cohort.model, hostile)
        work[peers] += job.samples(peers)
        chunks = job.chunks(peers, wiring.workers.count)

        def visit(number: int) -> Trained:
            rows, state = cohort.take(self.population.place[chunks[number]])
            return job.run(chunks[number], rows, state, self._poison(cohort, chunks[number], rows, t, k, hostile))

        for done in wiring.workers.map(visit, len(chunks)):
            at = self.population.place[done.peers]
            self._remember(done)
            fine = wiring.sound(done, t)
            if not bool(fine.all()):
                at, done = at[fine], done.only(fine)
            wiring.losses.append(done.losses)
            cohort.put(at, done.rows, done.state)

    def _poison(
        self, cohort: Cohort, peers: Tensor, rows: Tensor, t: int, k: int, hostile: bool
    ) -> dict[int, tuple[Tensor, Tensor]]:
        return self.wiring.poison(t, k, cohort.model, peers, rows) if hostile else {}

    def _remember(self, done: Trained) -> None:
        """Rows before training: of everyone where the merge may ask, of hostile peers where only the attack does."""
        for at, peer in enumerate(done.peers.tolist()):
            if not self.wiring.merge.plain or not self.wiring.codec.plain or peer in self.wiring.hostile:
                self.starts.setdefault(peer, done.start[at])

    # exchanges

    def _exchange(self, exchange: Exchange, t: int, k: int, weather: Weather, trained: Tensor) -> Tensor:
        if exchange.name == HAND:
            return self._hand(exchange, t, k, weather)
        delivery = deliver(exchange, weather, k, trained if exchange.collect else None)
        wiring = self.wiring
        whole = len(self.population.cohorts) == 1 and wiring.merge.plain and not wiring.judges
        if whole and wiring.codec.plain and (wiring.attack is None or wiring.attack.sees == "own"):
            self._whole_rows(exchange, delivery, t, k)
        else:
            self._messages(exchange, delivery, t, k)
        reached = torch.zeros(wiring.n, dtype=torch.bool)
        reached[delivery.kept[1]] = True
        return reached

    def _whole_rows(self, exchange: Exchange, delivery: Delivery, t: int, k: int) -> None:
        """Messages are rows (or groups of them) and pass unchanged: no message is ever made."""
        cohort, merge = self.population.cohorts[0], self.wiring.merge
        example = merge.message(cohort.rows[0], {n: v[0] for n, v in cohort.state.items()}, {}, self._context(0, t, k))
        charge(self.wiring.meter, delivery, self.wiring.codec.length(example), self.wiring.links)
        lies = self._lies(cohort, exchange, delivery, t, k)
        refused = {peer for peer, m in lies.items() if not self._acceptable(peer, m, t, k)}
        src, dst, weight = delivery.kept
        if refused:
            away = src != dst
            drop = torch.tensor([peer in refused for peer in src.tolist()]) & away
            self.wiring.meter.rejected += int(drop.sum())
            src, dst, weight = src[~drop], dst[~drop], weight[~drop]
        names = [(name, cohort.model.groups.get(name)) for name in example]
        sent = {peer: m for peer, m in lies.items() if peer not in refused}
        if merge.reduce.linear:
            sums = self._cached_sums(exchange, delivery, src, dst, weight, bool(refused))
            self._add_up(cohort, sums, names, sent)
        else:
            self._reduce(cohort, names, sent, src, dst, weight, t, k, exchange.name)

    def _lies(self, cohort: Cohort, exchange: Exchange, delivery: Delivery, t: int, k: int) -> dict[int, Message]:
        if self.wiring.attack is None:
            return {}
        senders = sorted(self.wiring.hostile & set(delivery.src[delivery.src != delivery.dst].tolist()))
        lies = {}
        for peer in senders:
            _, w, s = self.population.peer(peer)
            ctx = self._context(peer, t, k, exchange.name)
            honest = self.wiring.merge.message(w, s, self.population.book(peer), ctx)
            lies[peer] = self.wiring.lie(honest, ctx, None)
        return lies

    def _acceptable(self, peer: int, m: Message, t: int, k: int) -> bool:
        try:
            self.wiring.merge.accept(peer, m, self._context(peer, t, k))
        except MessageError as error:
            self.wiring.events.append(f"message of peer {peer} refused: {error}")
            return False
        return True

    def _cached_sums(
        self, exchange: Exchange, delivery: Delivery, src: Tensor, dst: Tensor, weight: Tensor, changed: bool
    ) -> Sums:
        """A plan that everyone follows is turned into sums once; the exchange is kept so that its id stays its own."""
        whole = delivery.whole and not changed and len(delivery.src) == len(exchange.src)
        if whole and id(exchange) in self._sums:
            return self._sums[id(exchange)][1]
        sums = Sums(self.wiring.n, src, dst, weight)
        if whole:
            self._sums = dict(list(self._sums.items())[-63:])
            self._sums[id(exchange)] = (exchange, sums)
        return sums

    def _add_up(
        self, cohort: Cohort, sums: Sums, names: list[tuple[str, slice | None]], lies: Mapping[int, Message]
    ) -> None:
        if self._spare is None or self._spare.shape != cohort.rows.shape:
            self._spare = torch.empty_like(cohort.rows)
        out, rows = self._spare, cohort.rows
        parts = [part for _, part in names if part is not None]
        everything = sum(part.stop - part.start for part in parts) == cohort.model.size
        sent = rows.clone() if lies else None
        for peer, m in lies.items():
            assert sent is not None
            sent[peer] = cohort.model.paste(rows[peer], m)
        if everything:
            sums.into(out, rows, self.wiring.workers, sent)
        else:
            out.copy_(rows)
            for part in parts:
                sums.into(out[:, part], rows[:, part], self.wiring.workers, None if sent is None else sent[:, part])
        cohort.rows, self._spare = out, rows
        for name, part in names:
            if part is None:
                value = cohort.state[name].flatten(1)
                said = value.clone() if lies else None
                for peer, m in lies.items():
                    assert said is not None
                    said[peer] = m[name].flatten()
                mixed = torch.empty_like(value)
                sums.into(mixed, value, self.wiring.workers, said)
                cohort.state[name] = mixed.reshape(cohort.state[name].shape)

    def _reduce(
        self, cohort: Cohort, names: list[tuple[str, slice | None]], lies: Mapping[int, Message],
        src: Tensor, dst: Tensor, weight: Tensor, t: int, k: int, phase: str,
    ) -> None:  # fmt: skip
        """Inboxes of equal size are reduced together, in chunks that fit the memory bound."""
        keep = weight > 0
        src, dst, weight = src[keep], dst[keep], weight[keep]
        targets, sizes = torch.unique_consecutive(dst, return_counts=True)
        firsts = torch.cumsum(sizes, 0) - sizes
        fresh = {name: self._values(cohort, name, part).clone() for name, part in names}
        stacks = self._said(cohort, names, lies)
        blocks = []
        for size in sizes.unique().tolist():
            same = torch.nonzero(sizes == size).flatten()
            room = max(1, int(self.wiring.memory * 2**18 / (3 * size * cohort.model.size)))
            blocks += [(size, block) for block in torch.split(same, room)]

        def visit(number: int) -> tuple[Tensor, dict[str, Tensor]]:
            size, block = blocks[number]
            edges = firsts[block][:, None] + torch.arange(size)
            to, ids = targets[block], src[edges]
            own = ids == to[:, None]
            inbox = {}
            for name, part in names:
                stack = stacks[name][ids]
                mine = self._values(cohort, name, part)[to]
                inbox[name] = torch.where(own.reshape(*own.shape, *[1] * (stack.dim() - 2)), mine[:, None], stack)
            return to, self._join(cohort, inbox, weight[edges].to(torch.float32), ids, to, t, k, phase)

        for to, got in self.wiring.workers.map(visit, len(blocks)):
            for name, value in got.items():
                fresh[name][to] = value
        for name, part in names:
            if part is None:
                cohort.state[name] = fresh[name]
            else:
                cohort.rows[:, part] = fresh[name]

    def _values(self, cohort: Cohort, name: str, part: slice | None) -> Tensor:
        return cohort.state[name] if part is None else cohort.rows[:, part]

    def _said(
        self, cohort: Cohort, names: list[tuple[str, slice | None]], lies: Mapping[int, Message]
    ) -> dict[str, Tensor]:
        found = {}
        for name, part in names:
            value = self._values(cohort, name, part)
            if lies:
                value = value.clone()
                for peer, m in lies.items():
                    value[peer] = m[name]
            found[name] = value
        return found

    def _join(
        self, cohort: Cohort, inbox: Message, weight: Tensor, ids: Tensor, to: Tensor, t: int, k: int, phase: str
    ) -> dict[str, Tensor]:
        merge = self.wiring.merge
        rows, state = cohort.take(to)
        ctx = self._context(0, t, k, phase)
        if merge.reduce.vectorised:

            def one(messages: Message, weights: Tensor, w: Tensor, s: State) -> Message:
                return merge.reduce(Inbox((), weights, messages), w, s, {}, ctx)

            joined: Message = torch.vmap(one)(inbox, weight, rows, state)
            return joined
        found = []
        for i, peer in enumerate(to.tolist()):
            box = Inbox(tuple(ids[i].tolist()), weight[i], {name: value[i] for name, value in inbox.items()})
            s = {name: value[i] for name, value in state.items()}
            context = self._context(peer, t, k, phase)
            found.append(merge.reduce(box, rows[i], s, self.population.book(peer), context))
        return {name: torch.stack([m[name] for m in found]) for name in found[0]}

    # one message at a time: any merge, codec, attack and judge

    def _messages(self, exchange: Exchange, delivery: Delivery, t: int, k: int) -> None:
        merge, wiring = self.wiring.merge, self.wiring
        kind = merge.kind(exchange.name)
        said: dict[tuple[int, int | None], Message] = {}
        own: dict[int, Message] = {}
        sizes: dict[tuple[int, int | None], int] = {}
        away = set(delivery.src[delivery.src != delivery.dst].tolist())
        fresh: dict[int, State] = {}
        for peer in sorted(set(delivery.src.tolist())):
            cohort, w, s = self.population.peer(peer)
            targets = delivery.dst[delivery.src == peer].tolist() if merge.per_target else [None]
            for to in targets:
                ctx = self._context(peer, t, k, exchange.name, kind=kind, to=to)
                m = merge.message(w, s, self.population.book(peer), ctx)
                own[peer] = m
                said[peer, to] = m
        if wiring.attack is not None:
            honest = [m for (peer, _), m in said.items() if peer not in wiring.hostile]
            for peer, to in list(said):
                if peer in wiring.hostile:
                    ctx = self._context(peer, t, k, exchange.name, kind=kind, to=to)
                    said[peer, to] = wiring.lie(said[peer, to], ctx, honest if wiring.attack.sees == "honest" else None)
        for (peer, to), m in list(said.items()):
            if peer not in away and not exchange.collect:
                continue
            ctx = self._context(peer, t, k, exchange.name, kind=kind, to=to)
            if wiring.codec.plain:
                sizes[peer, to] = wiring.codec.length(m)
                continue
            _, _, s = self.population.peer(peer)
            data, fresh[peer] = wiring.codec.encode(m, fresh.get(peer, s), ctx)
            sizes[peer, to] = len(data)
            try:
                said[peer, to] = wiring.codec.decode(data, ctx)
            except MessageError as error:
                wiring.events.append(f"message of peer {peer} does not decode: {error}")
                del said[peer, to]
        for peer, s in fresh.items():
            self._put(peer, None, s)
        pairs = list(zip(delivery.src.tolist(), delivery.dst.tolist(), strict=True))
        each = [sizes.get((a, b if merge.per_target else None), 0) for a, b in pairs]
        charge(wiring.meter, delivery, torch.tensor(each, dtype=torch.float64), wiring.links)
        self._deliver(exchange, delivery, said, own, kind, t, k)

    def _deliver(
        self, exchange: Exchange, delivery: Delivery, said: Mapping[tuple[int, int | None], Message],
        own: Mapping[int, Message], kind: str, t: int, k: int,
    ) -> None:  # fmt: skip
        merge, wiring = self.wiring.merge, self.wiring
        src, dst, weight = delivery.kept
        judged = self._judge(exchange, said)
        inboxes: dict[int, list[tuple[int, float, Message]]] = defaultdict(list)
        for sender, to, share in zip(src.tolist(), dst.tolist(), weight.tolist(), strict=True):
            mine = sender == to and not exchange.collect
            m = own[sender] if mine else said.get((sender, to if merge.per_target else None))
            if m is None:
                continue
            if not mine:
                try:
                    merge.accept(sender, m, self._context(to, t, k, exchange.name, kind=kind))
                except MessageError as error:
                    wiring.meter.rejected += 1
                    wiring.events.append(f"message of peer {sender} refused: {error}")
                    continue
            share *= judged.get(sender, 1.0)
            if share > 0:
                inboxes[to].append((sender, share, m))
        group = self._planned(exchange)
        new: list[tuple[int, Tensor, State]] = []
        for to, inbox in sorted(inboxes.items()):
            ids = tuple(sender for sender, _, _ in inbox)
            weights = torch.tensor([share for _, share, _ in inbox], dtype=torch.float32)
            messages = [m for _, _, m in inbox]
            counts = {name: sum(name in m for m in messages) for m in messages for name in m}
            _, w, s = self.population.peer(to)
            ctx = self._context(to, t, k, exchange.name, kind=kind, group=group[to], senders=ids, counts=counts)
            book = self.population.book(to)
            got = merge.join(Inbox(ids, weights, messages), w, s, book, ctx)
            new.append((to, *merge.apply(w, s, book, got, ctx)))
        for to, w, s in new:
            self._put(to, w, s)

    def _planned(self, exchange: Exchange) -> dict[int, tuple[int, ...]]:
        group: dict[int, list[int]] = defaultdict(list)
        for sender, to in zip(exchange.src.tolist(), exchange.dst.tolist(), strict=True):
            group[to].append(sender)
        return {to: tuple(senders) for to, senders in group.items()}

    def _judge(self, exchange: Exchange, said: Mapping[tuple[int, int | None], Message]) -> dict[int, float]:
        factors: dict[int, float] = {}
        messages = {peer: m for (peer, _), m in said.items()}
        for hook in self.wiring.hooks:
            if hook.needs_messages:
                for peer, factor in (hook.judge(exchange, messages, self.wiring.population) or {}).items():
                    factors[peer] = factors.get(peer, 1.0) * factor
        return factors

    def _put(self, peer: int, w: Tensor | None, s: State) -> None:
        cohort = self.population.cohorts[int(self.population.cohort_of[peer])]
        at = self.population.place[peer : peer + 1]
        cohort.put(at, None if w is None else w[None], {name: value[None] for name, value in s.items()})

    def _context(self, peer: int, t: int, k: int, phase: str = "", *, kind: str = "", **more: object) -> Context:
        cohort = self.population.cohorts[int(self.population.cohort_of[peer])]
        start = self.starts.get(peer)
        if start is None and not self.wiring.merge.plain:
            start = cohort.rows[int(self.population.place[peer])]
        kind = kind or self.wiring.merge.kind(phase)
        data = None if self.wiring.merge.plain else self.wiring.own(peer)
        role = self.roles.get(peer, "train")
        return self.wiring.context(
            t, k, cohort.model, peer, phase=phase, kind=kind, role=role, start=start, data=data, **more
        )

    # the aggregator role moves

    def _hand(self, exchange: Exchange, t: int, k: int, weather: Weather) -> Tensor:
        merge: Merge = self.wiring.merge
        delivery = deliver(exchange, weather, k, None)
        reached = torch.zeros(self.wiring.n, dtype=torch.bool)
        heirs = delivery.kept[1]
        reached[heirs] = True
        if not len(exchange.src):
            return reached
        holder = int(exchange.src[0])
        cohort, w, s = self.population.peer(holder)
        book = self.population.book(holder)
        role = {name: book[name] for name in merge.role if name in book}
        common = {name: s[name] for name in merge.common if name in s}
        groups = {name: w[part] for name, part in cohort.model.groups.items() if not merge.share or name in merge.share}
        tensors = {name: value for name, value in role.items() if isinstance(value, Tensor)}
        charge(
            self.wiring.meter,
            delivery,
            self.wiring.codec.packer.length({**groups, **common, **tensors}),
            self.wiring.links,
        )
        if not len(heirs):
            raise ConfigError(f"round {t}: the aggregator role of peer {holder} reached nobody")
        for peer in heirs.tolist():
            if peer != holder:
                _, other, state = self.population.peer(peer)
                self._put(peer, cohort.model.paste(other, groups), {**state, **common})
        for peer in range(self.wiring.n):
            for name in merge.role:
                self.population.book(peer).pop(name, None) if peer in self.population.books else None
        for peer in heirs.tolist():
            self.population.book(peer).update(role)
        return reached
