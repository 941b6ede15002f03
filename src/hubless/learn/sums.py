"""Inboxes of which a receiver learns only the sum: the engine's side of a codec that hides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hubless.errors import CodecError, ConfigError, MessageError
from hubless.learn.codecs import Codec, Raw
from hubless.learn.context import Context, Message, State
from hubless.learn.moment import Moment
from hubless.learn.plan import Chatter, Exchange
from hubless.learn.secure import Hiding
from hubless.learn.wire import Delivery, charge

NOBODY = -1  # the sender of a sum
TRIPS = 2  # peers and receivers hear of each other before the messages and after them
SMALL = Raw()

Said = Callable[[int, int], Message]  # what a sender says to a receiver


class Entry(NamedTuple):
    """What arrived at a peer: a message of one sender, or the mean of several of which only the sum was learned."""

    senders: tuple[int, ...]
    weight: float
    message: Message


def summed(exchange: Exchange) -> bool:
    """Whether inboxes are summed where a codec hides; what one peer tells everyone, as in a broadcast, is not."""
    return exchange.collect or len(set(exchange.src.tolist())) > 1


def openly(codec: Codec) -> Codec:
    """The codec of exchanges that are not summed."""
    return replace(codec, stages=tuple(stage for stage in codec.stages if not stage.hides))


def edges_into(src: Tensor, dst: Tensor, exchange: Exchange) -> dict[int, list[int]]:
    """Places ``[E]`` of the edges into each inbox; a peer's own message is among them only where work is collected."""
    found: dict[int, list[int]] = defaultdict(list)
    for at, (sender, to) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        if sender != to or exchange.collect:
            found[to].append(at)
    return found


def secure_sums(moment: Moment, delivery: Delivery, said: Said) -> tuple[list[tuple[int, Entry]], list[int]]:
    """Receivers with the sum of their inbox, and those whose inbox must stay closed: counted, and told in an event.

    Senders that are alive take part. Those whose message is lost, late (of weight 0) or damaged are missing in the sum.
    A message of other names or shapes than most have is refused; wrong numbers cannot be seen. Small messages are not
    lost.
    """
    wiring, exchange = moment.wiring, moment.exchange
    planned = edges_into(exchange.src, exchange.dst, exchange)
    post = _Post(moment, delivery, said)
    found: list[tuple[int, Entry]] = []
    closed: list[int] = []
    why = ""
    for to, edges in sorted(edges_into(delivery.src, delivery.dst, exchange).items()):
        group = tuple(sorted(exchange.src[planned[to]].tolist()))
        try:
            entry = post.collect(to, group, edges)
        except (MessageError, ConfigError) as error:
            closed.append(to)
            why = why or str(error)
            continue
        if entry is not None:
            found.append((to, entry))
    post.close()
    if closed:
        text = f"inboxes in {exchange.name!r} that stayed closed: {len(closed)}; that of peer {closed[0]}: {why}"
        wiring.tell(text, moment.k, 5)
    return found, closed


class _Post:
    """The messages of one exchange, and what they cost."""

    def __init__(self, moment: Moment, delivery: Delivery, said: Said) -> None:
        self.moment, self.delivery, self.said = moment, delivery, said
        codec = moment.wiring.codec
        assert isinstance(codec.stages[-1], Hiding)
        self.hiding = codec.stages[-1]
        self.before = replace(codec, stages=codec.stages[:-1])
        self.sizes: dict[int, int] = {}
        self.sent = torch.zeros(moment.wiring.n, dtype=torch.float64)
        self.small = 0
        self.fresh: dict[int, State] = {}

    def collect(self, to: int, group: tuple[int, ...], edges: list[int]) -> Entry | None:
        """One inbox, where some message counts. Raises MessageError or ConfigError when it stays closed."""
        src, weight, arrived = self.delivery.src, self.delivery.weight, self.delivery.arrived
        self.hiding.check(len(group), self.before.stages)
        senders = {int(src[edge]): edge for edge in edges}
        dealt = tuple(sorted(senders))
        deals = {peer: self.hiding.deal(self.moment.context(peer, to=to, group=group)) for peer in dealt}
        heard = {}
        for peer, edge in senders.items():
            self._count(peer, to, deals[peer])
            self._count(to, peer, {"dealt": torch.tensor(dealt, dtype=torch.int32)})
            ctx = self.moment.context(peer, to=to, group=group, senders=dealt)
            data = self._encoded(peer, self.said(peer, to), ctx)
            if data is None:
                continue
            self.sizes[edge] = len(data)
            if bool(arrived[edge]) and float(weight[edge]) > 0:
                heard[peer] = data
        if not heard:
            return None
        messages = self._unpacked(heard)
        shares = {float(weight[senders[peer]]) for peer in messages}
        ctx = self.moment.context(to, to=to, group=group, senders=tuple(sorted(messages)))
        try:
            if len(shares) > 1:
                raise MessageError("senders have several weights")
            mean = self._opened(messages, deals, ctx)
        except (MessageError, ConfigError):
            self.moment.wiring.meter.rejected += len(messages)
            raise
        return Entry(ctx.senders, len(messages) * shares.pop(), mean)

    def close(self) -> None:
        """Charge what was sent, and keep what senders remember."""
        wiring, delivery = self.moment.wiring, self.delivery
        edges = torch.tensor(sorted(self.sizes), dtype=torch.int64)
        sent = Delivery(*(part[edges] for part in (delivery.src, delivery.dst, delivery.weight, delivery.arrived)))
        sizes = torch.tensor([self.sizes[edge] for edge in edges.tolist()], dtype=torch.float64)
        charge(wiring.meter, sent, sizes, wiring.links)
        wiring.meter.listen(Chatter(self.sent, self.small, TRIPS if self.small else 0), wiring.links)
        for peer, s in self.fresh.items():
            self.moment.put(peer, None, s)

    def _count(self, peer: int, to: int, m: Message) -> None:
        if peer != to:
            self.sent[peer] += SMALL.length(m)
            self.small += 1

    def _encoded(self, peer: int, m: Message, ctx: Context) -> bytes | None:
        """Every message of a peer in this exchange starts from the state before it; None: it cannot be coded."""
        _, _, s = self.moment.wiring.population.peer(peer)
        try:
            m, s = self.before.forward(m, s, ctx)
            data = self.before.packer.pack(self.hiding.forward(m, s, ctx)[0])
        except MessageError as error:
            self.moment.wiring.tell(f"message of peer {peer} cannot be coded: {error}", self.moment.k, 2, peer)
            self.moment.wiring.meter.rejected += 1
            return None
        if self.before.stages:
            self.fresh[peer] = s
        return data

    def _unpacked(self, heard: Mapping[int, bytes]) -> dict[int, Message]:
        """Messages that may be added to each other."""
        meter, k = self.moment.wiring.meter, self.moment.k
        found: dict[int, Message] = {}
        for peer, data in heard.items():
            try:
                found[peer] = self.before.packer.unpack(data)
            except CodecError as error:
                self.moment.undecodable((peer, None), error)
        shapes = {
            peer: str([(name, value.dtype, value.shape) for name, value in m.items()]) for peer, m in found.items()
        }
        usual = Counter(shapes.values()).most_common(1)
        for peer in [peer for peer in found if shapes[peer] != usual[0][0]]:
            text = f"message of peer {peer} refused: it has other names or shapes than those of most"
            self.moment.wiring.tell(text, k, 4, peer)
            del found[peer]
        meter.rejected += len(heard) - len(found)
        return found

    def _opened(self, messages: Mapping[int, Message], deals: Mapping[int, Message], ctx: Context) -> Message:
        """The mean of the messages."""
        hiding, to = self.hiding, ctx.peer
        assert isinstance(to, int)
        answers = {}
        for peer in messages:
            told = hiding.relay(peer, deals, ctx)
            answers[peer] = hiding.answer(told, self.moment.context(peer, to=to, group=ctx.group))
            self._count(to, peer, told)
            self._count(peer, to, answers[peer])
        total = hiding.total(messages, deals, answers, ctx)
        count = len(messages)
        mean = self.before.inverse(hiding.inverse(total, count, ctx), count, ctx)
        self.moment.wiring.merge.accept(NOBODY, mean, ctx)
        return mean
