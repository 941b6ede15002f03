"""Rounds of a shard of a population that shares one model.

Every shard has the one row. The aggregator's shard broadcasts; each trains its own peers; what they say goes to the
aggregator's shard, summed where a chunk of peers is held in one piece; the row that it makes of all goes to every
shard. Chunks are those of the whole population, so that sums are taken in the same order. Shards trust each other:
what a peer says is coded, decoded and accepted where it is held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.accept import Forms
from hubless.learn.context import Message
from hubless.learn.crossing import PLAIN
from hubless.learn.gathered import Gathered
from hubless.learn.handover import hand
from hubless.learn.moment import Moment
from hubless.learn.plan import HAND, Exchange, Plan, Train
from hubless.learn.streaming import Late, Model, Streaming, Visit
from hubless.learn.swaps import Address, Packets, Swap, Swapping
from hubless.learn.wire import charge, deliver
from hubless.learn.wiring import Outcome, Wiring
from hubless.net.faults import Weather

SUMS, ROW, STATE = "sums", "row", "state/"  # names in the messages between shards


@dataclass
class Piece:
    """What the peers of a chunk that are held in one shard say: the sum of it, or a message each."""

    sums: Message | None = None
    said: dict[int, Message] = field(default_factory=dict)


class Outbox(Gathered):
    """Takes messages for the aggregator's shard, whether they arrive or not: it is that shard that counts them."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(0), keep=True)
        self.forms = _Any()
        self.pieces: dict[int, Piece] = {}
        self.now = Piece()

    def open(self, number: int) -> None:
        """What comes now is of that chunk."""
        self.now = self.pieces.setdefault(number, Piece())

    def add(self, peer: int, m: Message) -> None:
        """One message."""
        self.now.said[peer] = m


class _Any(Forms):
    def agree(self, m: Message) -> None:
        """The aggregator's shard compares."""


class Streamed(Streaming):
    """``Streaming`` of the peers that a shard holds; ``Population.shards`` says who holds the others."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring)
        self._numbers: Iterator[int] = itertools.count()

    def steps(self, t: int, plan: Plan, weather: Weather) -> Swapping[Outcome]:
        """One round, stopping wherever messages must be carried between shards."""
        outcome = Outcome(torch.zeros(self.wiring.n, dtype=torch.bool))
        reached: dict[str, Tensor] = {}
        seen: Model = self._own()
        waiting: list[tuple[int, str, Tensor]] = []
        self._numbers = itertools.count()
        for k, step in enumerate(plan):
            if isinstance(step, Train):
                for role in step.roles:
                    peers = self.wiring.ready(step, role, weather, reached)
                    outcome.trained[peers] = True
                    waiting.append((k, role, peers))
            elif step.name == HAND:
                outcome.holders = yield from self._handed(step, t, k, weather)
            elif step.collect:
                yield from self._gather(step, t, k, weather, waiting, seen, outcome.trained)
                waiting = []
            else:
                reached[step.name], seen = yield from self._spread(step, t, k, weather)
        return outcome

    # between shards

    def _holds(self, peer: int) -> bool:
        return bool(self.wiring.population.held[peer])

    def _carried(
        self, t: int, k: int, name: str, m: Message | None, speakers: list[int], listeners: list[int]
    ) -> Swapping[list[Message]]:
        """Bring the message of every shard that holds a speaker to all that hold a listener; in the order of shards."""
        shards = [set(ids.tolist()) for ids in self.wiring.population.shards]
        mine = next(number for number, ids in enumerate(shards) if self._holds(min(ids)))
        speaking = [number for number, ids in enumerate(shards) if not ids.isdisjoint(speakers)]
        hearing = [number for number, ids in enumerate(shards) if not ids.isdisjoint(listeners)]
        to = tuple(min(shards[number]) for number in hearing if number != mine)
        me: Address = (min(shards[mine]), None)
        packets: Packets = {me: PLAIN.pack(m)} if mine in speaking and m is not None and to else {}
        others = [number for number in speaking if number != mine] if mine in hearing else []
        expect = tuple((min(shards[number]), None) for number in others)
        heard = yield Swap(t, k, next(self._numbers), name, packets, dict.fromkeys(packets, to), expect)
        found = {number: PLAIN.unpack(heard[min(shards[number]), None]) for number in others}
        if mine in speaking and mine in hearing and m is not None:
            found[mine] = m
        return [found[number] for number in sorted(found)]

    # down

    def _spread(self, step: Exchange, t: int, k: int, weather: Weather) -> Swapping[tuple[Tensor, Model]]:
        """The broadcast of whoever holds the aggregator."""
        delivery = deliver(step, weather, k, None)
        hub = int(step.src[0]) if len(step.src) else 0
        m: Message | None = None
        if self._holds(hub):
            m = self._said_down(step, t, k, delivery)
        else:
            charge(self.wiring.meter, delivery, 0, self.wiring.links)
        (heard,) = yield from self._carried(t, k, step.name, m or {}, [hub], list(range(self.wiring.n)))
        return self._heard_down(step, t, k, delivery, heard or None)

    # up

    def _gather(
        self, step: Exchange, t: int, k: int, weather: Weather, waiting: list[tuple[int, str, Tensor]],
        seen: Model, trained: Tensor,
    ) -> Swapping[None]:  # fmt: skip
        wiring = self.wiring
        src, _, weight = deliver(step, weather, k, trained).kept
        arrives = torch.zeros(wiring.n, dtype=torch.float64)
        arrives[src] = weight
        box, out = self._box(arrives), Outbox()
        chunks = self._chunks(waiting)
        place = {int(peer): number for number, (_, chunk) in enumerate(chunks) for peer in chunk}
        sizes = torch.zeros(wiring.n, dtype=torch.float64)
        honest: dict[int, Message] = {}
        late: Late = []
        for visit in self._visits(step, t, k, weather, waiting, seen, box, trained):
            out.open(place[int(visit.everyone[0])])
            self._speak(visit, out, sizes, honest, late)
        yield from self._lied(t, k, step, out, sizes, honest, late, len(chunks))
        charge(wiring.meter, (sent := deliver(step, weather, k, trained)), sizes[sent.src], wiring.links)
        hub = int(step.dst[0]) if len(step.dst) else 0
        everyone = list(range(wiring.n))
        parts = yield from self._carried(t, k, step.name, _flat(out.pieces), everyone, [hub])
        new: Message = {}
        if self._holds(hub):
            self._add(box, chunks, [_pieces(part) for part in parts], k)
            if box.senders:
                self._conclude(step, t, k, box, seen)
            w, s = self._own()
            new = {ROW: w, **{STATE + name: value for name, value in s.items()}}
        (made,) = yield from self._carried(t, k, f"{step.name}/made", new, [hub], everyone)
        self.cohort.rows = made[ROW][None].clone()
        for name, value in made.items():
            if name != ROW:
                self.cohort.state[name.removeprefix(STATE)] = value[None].clone()

    def _chunks(self, waiting: list[tuple[int, str, Tensor]]) -> list[tuple[bool, Tensor]]:
        """All chunks of the whole population, in order, and whether their messages are only summed."""
        box = self._box(torch.zeros(0))
        found = []
        for at, role, peers in waiting:
            for part, hostile in self.wiring.split(peers):
                job = self.wiring.jobs(role, 0, at, self.model, hostile)
                found += [(self._simple(one, box), one) for one in job.chunks(part, self.wiring.workers.count)]
        return found

    def _speak(self, visit: Visit, out: Outbox, sizes: Tensor, honest: dict[int, Message], late: Late) -> None:
        """What the peers of a chunk say that are held here."""
        wiring = self.wiring
        if visit.said is not None and (visit.sums is not None or visit.simple) and len(visit.done.peers):
            sizes[visit.done.peers] = float(wiring.codec.length({n: v[0] for n, v in visit.said.items()}))
        if visit.sums is not None:
            out.now.sums = visit.sums
            return
        self._say(visit, out, sizes, honest, late)

    def _lied(
        self, t: int, k: int, step: Exchange, out: Outbox, sizes: Tensor, honest: Mapping[int, Message], late: Late,
        number: int,
    ) -> Swapping[None]:  # fmt: skip
        """Hostile peers that want to see all honest messages speak when they have."""
        if not self._omniscient:
            return
        flat = _flat({0: Piece(None, dict(honest))})
        hostile = sorted(self.wiring.hostile)
        parts = yield from self._carried(t, k, f"{step.name}/honest", flat, list(range(self.wiring.n)), hostile)
        seen: dict[int, Message] = {}
        for part in parts:
            for piece in _pieces(part).values():
                seen |= piece.said
        out.open(number)
        for peer, m, ctx, s in late:
            sizes[peer] = self._send(out, peer, m, ctx, s, [seen[one] for one in sorted(seen)])

    def _add(self, box: Gathered, chunks: list[tuple[bool, Tensor]], parts: list[dict[int, Piece]], k: int) -> None:
        """Everything that was said, in the order of a whole population."""
        for number, (simple, chunk) in enumerate(chunks):
            pieces = [part[number] for part in parts if number in part]
            whole = next((piece.sums for piece in pieces if piece.sums is not None), None)
            said = {peer: m for piece in pieces for peer, m in piece.said.items()}
            if whole is None and simple and self.wiring.merge.vectorised and len(said) == len(chunk):
                ordered = [said[peer] for peer in chunk.tolist()]
                stacked = {name: torch.stack([m[name] for m in ordered]) for name in ordered[0]}
                whole = box.partial(chunk, stacked)
            if whole is not None:
                box.add_sums(chunk, whole)
                continue
            for peer in [peer for peer in chunk.tolist() if peer in said]:
                self._heard(box, peer, said[peer], k)
        last = [part[len(chunks)] for part in parts if len(chunks) in part]
        for peer, m in [(peer, m) for piece in last for peer, m in piece.said.items()]:
            self._heard(box, peer, m, k)

    def _heard(self, box: Gathered, peer: int, m: Message, k: int) -> None:
        try:
            if self.wiring.hostile:
                box.forms.agree(m)
        except MessageError as error:
            self.wiring.meter.rejected += 1
            self.wiring.tell(f"message of peer {peer} refused: {error}", k, 4, peer)
            return
        box.add(peer, m)

    # hand

    def _handed(self, step: Exchange, t: int, k: int, weather: Weather) -> Swapping[list[int]]:
        moment = Moment(self.wiring, step, t, k, {}, {}, self._numbers)
        w, s = self._own()
        groups = {name: w[part] for name, part in self.model.groups.items()}
        said = {**groups, **s} if self._holds(int(step.src[0])) else None
        holders, _ = yield from hand(moment, weather, said)
        return holders


def _flat(pieces: Mapping[int, Piece]) -> Message:
    """Pieces by chunk as one message."""
    found: Message = {}
    for number, piece in pieces.items():
        for name, value in (piece.sums or {}).items():
            found[f"{number}/{SUMS}/{name}"] = value
        for peer, m in piece.said.items():
            found |= {f"{number}/{peer}/{name}": value for name, value in m.items()}
    return found


def _pieces(flat: Message) -> dict[int, Piece]:
    """The inverse."""
    found: dict[int, Piece] = {}
    for label, value in flat.items():
        number, who, name = label.split("/", 2)
        piece = found.setdefault(int(number), Piece())
        if who == SUMS:
            piece.sums = {**(piece.sums or {}), name: value}
        else:
            piece.said.setdefault(int(who), {})[name] = value
    return found
