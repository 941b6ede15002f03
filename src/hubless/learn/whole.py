"""Exchanges of whole rows, or groups of them: messages pass unchanged, so that none is made within a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hubless.learn.context import Inbox, Message, State
from hubless.learn.crossing import PLAIN, arrived, crossing, unpacked
from hubless.learn.moment import Moment
from hubless.learn.plan import Exchange
from hubless.learn.population import Cohort
from hubless.learn.rows import Sums, dense
from hubless.learn.swaps import Swapping
from hubless.learn.wire import Delivery, charge
from hubless.learn.wiring import Wiring

REMEMBERED = 64  # plans whose sums are kept; a topology with a longer period is summed afresh


@dataclass(frozen=True)
class Said:
    """What peers say.

    parts: names with their slice of the row (None: an entry of the state)
    lies:  what hostile ones say instead
    heard: what came from other shards
    among: ids of the peers whose rows are here or were heard, rising
    """

    parts: dict[str, slice | None]
    lies: Mapping[int, Message]
    heard: Mapping[int, Message]
    among: Tensor


class WholeRows:
    """Row sums for linear merges; inboxes ``[C, M, ...]`` of equal size, reduced together, for others."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.cohort: Cohort = wiring.population.cohorts[0]
        self._spare: Tensor | None = None
        self._sums: dict[int, tuple[Exchange, Sums]] = {}

    def fits(self, exchange: Exchange) -> bool:
        """Whether an exchange can go this way: plain messages of one cohort that nobody looks at or codes."""
        wiring = self.wiring
        if len(wiring.population.cohorts) > 1 or not (wiring.merge.plain and wiring.codec.plain) or wiring.judges:
            return False
        if wiring.attack is None:
            return True
        if wiring.attack.joint or wiring.attack.reduce is not None:
            return False
        lying_to_itself = exchange.collect and not wiring.hostile.isdisjoint(exchange.dst.tolist())
        return wiring.attack.sees == "own" and not lying_to_itself

    def exchange(self, moment: Moment, delivery: Delivery) -> Swapping[Delivery]:
        """One exchange; what was delivered."""
        wiring, cohort, population = self.wiring, self.cohort, self.wiring.population
        example = wiring.merge.message(
            cohort.rows[0], {name: value[0] for name, value in cohort.state.items()}, {},
            moment.context(moment.listener),
        )  # fmt: skip
        charge(wiring.meter, delivery, wiring.codec.length(example), wiring.links)
        lies = self._lies(moment, delivery)
        parts = {name: cohort.model.groups.get(name) for name in example}
        heard: dict[int, Message] = {}
        bad: set[int] = set()
        refused = {peer for peer, m in lies.items() if not moment.accepts(peer, peer, m)}
        if not population.whole:
            src, dst, _ = delivery.kept
            came = yield from crossing(moment, src, dst, lambda one: self._packed(one[0], parts, lies))
            delivery = arrived(moment, delivery, came)
            heard = {sender: m for (sender, _), m in unpacked(moment, came).items()}
            bad = {peer for peer, m in heard.items() if not self._alike(moment, peer, m, example)}
            refused |= bad | {peer for peer, _ in came if peer not in heard}
        src, dst, weight = delivery.kept
        if refused:
            drop = torch.tensor([peer in refused for peer in src.tolist()], dtype=torch.bool) & (src != dst)
            wiring.meter.rejected += int((drop & population.held[dst]).sum())
            src, dst, weight = src[~drop], dst[~drop], weight[~drop]
        among = cohort.ids
        if not population.whole:
            full = dense(wiring.n, len(src))  # a product of matrices of another shape may round otherwise
            others = range(wiring.n) if full else {*cohort.ids.tolist(), *heard} - bad
            among = torch.tensor(sorted(others), dtype=torch.int64)
        said = Said(
            parts,
            {peer: m for peer, m in lies.items() if peer not in refused},
            {peer: m for peer, m in heard.items() if peer not in refused},
            among,
        )
        if wiring.merge.reduce.linear:
            self._add_up(self._cached_sums(moment.exchange, delivery, (src, dst, weight), among), said, delivery)
        else:
            held = population.held[dst]
            self._reduce(moment, said, src[held], dst[held], weight[held])
        return delivery

    def _packed(self, peer: int, parts: Mapping[str, slice | None], lies: Mapping[int, Message]) -> bytes:
        """What another shard hears of a peer."""
        at = self.wiring.population.place[peer]
        return PLAIN.pack(lies.get(peer) or {name: self._values(name, part)[at] for name, part in parts.items()})

    def _alike(self, moment: Moment, sender: int, m: Message, example: Message) -> bool:
        """Whether a message from another shard can be used."""
        if {n: (v.shape, v.dtype) for n, v in m.items()} != {n: (v.shape, v.dtype) for n, v in example.items()}:
            moment.refuse(sender, 0, "it has other names or shapes than those of most")
            return False
        return moment.accepts(moment.listener, sender, m)

    def _lies(self, moment: Moment, delivery: Delivery) -> dict[int, Message]:
        if self.wiring.attack is None:
            return {}
        held = self.wiring.population.held
        senders = sorted(self.wiring.hostile & set(delivery.src[delivery.src != delivery.dst].tolist()))
        mine = [peer for peer in senders if bool(held[peer])]
        return {peer: self.wiring.lie(moment.message(peer), moment.context(peer), None) for peer in mine}

    def _values(self, name: str, part: slice | None) -> Tensor:
        return self.cohort.state[name] if part is None else self.cohort.rows[:, part]

    def _known(self, name: str, said: Said) -> Tensor:
        """Values of the peers ``said.among``, as those held here have them and others say them."""
        value = self._values(name, said.parts[name])
        if self.wiring.population.whole:
            return value
        known = value.new_zeros(len(said.among), *value.shape[1:])
        known[torch.searchsorted(said.among, self.cohort.ids)] = value
        for peer, m in said.heard.items():
            known[self._place(said, peer)] = m[name]
        return known

    def _sent(self, name: str, said: Said) -> Tensor:
        """What others see of each peer ``[n, ...]``."""
        value = self._known(name, said)
        if said.lies:
            value = value.clone()
            for peer, m in said.lies.items():
                value[self._place(said, peer)] = m[name]
        return value

    def _place(self, said: Said, peer: int) -> int:
        return int(torch.searchsorted(said.among, peer))

    # linear

    def _cached_sums(
        self, exchange: Exchange, delivery: Delivery, edges: tuple[Tensor, Tensor, Tensor], among: Tensor
    ) -> Sums:
        """A plan that everyone follows is turned into sums once; the exchange is kept so that its id stays its own."""
        population = self.wiring.population
        whole = delivery.whole and len(edges[0]) == len(exchange.src)
        if whole and id(exchange) in self._sums:
            return self._sums[id(exchange)][1]
        sums = Sums(self.wiring.n, *edges, *(() if population.whole else (among, population.held)))
        if whole:
            self._sums = dict(list(self._sums.items())[-REMEMBERED + 1 :])
            self._sums[id(exchange)] = (exchange, sums)
        return sums

    def _add_up(self, sums: Sums, said: Said, delivery: Delivery) -> None:
        if not self.wiring.population.whole:
            self._add_here(sums, said, delivery)
            return
        cohort, workers = self.cohort, self.wiring.workers
        if self._spare is None or self._spare.shape != cohort.rows.shape:
            self._spare = torch.empty_like(cohort.rows)
        out, rows = self._spare, cohort.rows
        groups = {name: part for name, part in said.parts.items() if part is not None}
        if sum(part.stop - part.start for part in groups.values()) < cohort.model.size:
            out.copy_(rows)
        for name, part in groups.items():
            sent = self._sent(name, said) if said.lies else None
            sums.into(out[:, part], rows[:, part], workers, sent)
        cohort.rows, self._spare = out, rows
        for name in [name for name, part in said.parts.items() if part is None]:
            value = cohort.state[name].flatten(1)
            sent = self._sent(name, said).flatten(1) if said.lies else None
            mixed = torch.empty_like(value)
            sums.into(mixed, value, workers, sent)
            cohort.state[name] = mixed.reshape(cohort.state[name].shape)

    def _add_here(self, sums: Sums, said: Said, delivery: Delivery) -> None:
        """Sums for the peers that are held here, as they would be in a whole population."""
        hostile = self.wiring.hostile
        lying = bool(hostile) and not hostile.isdisjoint(delivery.src[delivery.src != delivery.dst].tolist())
        mine = torch.searchsorted(said.among, self.cohort.ids)
        for name, part in said.parts.items():
            known = self._known(name, said).flatten(1)
            sent = self._sent(name, said).flatten(1) if lying else None
            mixed = torch.empty_like(known)
            sums.into(mixed, known, self.wiring.workers, sent)
            self._write(name, part, mixed[mine].reshape(self._values(name, part).shape))

    def _write(self, name: str, part: slice | None, value: Tensor) -> None:
        if part is None:
            self.cohort.state[name] = value
        else:
            self.cohort.rows[:, part] = value

    # others

    def _reduce(self, moment: Moment, said: Said, src: Tensor, dst: Tensor, weight: Tensor) -> None:
        """Inboxes of equal size are reduced together, in chunks that fit the memory bound."""
        keep = weight > 0
        src, dst, weight = src[keep], dst[keep], weight[keep].to(torch.float32)
        targets, sizes = torch.unique_consecutive(dst, return_counts=True)
        firsts = torch.cumsum(sizes, 0) - sizes
        sent = {name: self._sent(name, said) for name in said.parts}
        place, lying = self.wiring.population.place, bool(said.lies)
        blocks = []
        for size in sizes.unique().tolist():
            room = max(1, int(self.wiring.memory * 2**18 / (3 * size * self.cohort.model.size)))
            blocks += [(size, block) for block in torch.split(torch.nonzero(sizes == size).flatten(), room)]

        def visit(number: int) -> tuple[Tensor, Message]:
            size, block = blocks[number]
            edges = firsts[block][:, None] + torch.arange(size)
            to, ids = targets[block], src[edges]
            at = ids if self.wiring.population.whole else torch.searchsorted(said.among, ids)
            mine = ids == to[:, None]
            inbox = {}
            for name, part in said.parts.items():
                stack = sent[name][at]
                if lying:
                    own = self._values(name, part)[place[to]][:, None]
                    where = mine.reshape(*mine.shape, *[1] * (stack.dim() - 2)).to(stack.device)
                    stack = torch.where(where, own, stack)
                inbox[name] = stack
            return to, self._joined(moment, inbox, weight[edges], ids, to)

        fresh = {name: self._values(name, part).clone() for name, part in said.parts.items()}
        for to, got in self.wiring.workers.map(visit, len(blocks)):
            for name, value in got.items():
                fresh[name][place[to]] = value
        for name, part in said.parts.items():
            self._write(name, part, fresh[name])

    def _joined(self, moment: Moment, inbox: Message, weight: Tensor, ids: Tensor, to: Tensor) -> Message:
        reduce, population = self.wiring.merge.reduce, self.wiring.population
        rows, state = self.cohort.take(population.place[to])
        if reduce.vectorised:
            ctx = moment.context(moment.listener)
            starts = rows
            if reduce.starts:
                began = [moment.starts.get(peer, row) for peer, row in zip(to.tolist(), rows, strict=True)]
                starts = torch.stack(began)

            def one(messages: Message, weights: Tensor, w: Tensor, s: State, start: Tensor) -> Message:
                return reduce(Inbox((), weights, messages), w, s, {}, replace(ctx, start=start))

            joined: Message = torch.vmap(one)(inbox, weight.to(rows.device), rows, state, starts)
            return joined
        found = []
        for i, peer in enumerate(to.tolist()):
            senders = tuple(ids[i].tolist())
            box = Inbox(senders, weight[i].to(rows.device), {name: value[i] for name, value in inbox.items()})
            s = {name: value[i] for name, value in state.items()}
            found.append(reduce(box, rows[i], s, population.book(peer), moment.context(peer, senders=senders)))
        return {name: torch.stack([m[name] for m in found]) for name in found[0]}
