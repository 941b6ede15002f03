"""Inboxes of which a receiver learns only the sum: the engine's side of a codec that hides.

Five times messages cross between shards: deals to the receiver, whose deals it has back, masked messages, what helps
each sender that arrived back, and answers. Small ones are not lost in a simulation. In a deployment they may be: whose
deal, message or answer does not come, or is none, does not take part, and the stage decides whether the inbox opens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hubless.errors import CodecError, ConfigError, MessageError
from hubless.learn.codecs import Codec, Raw
from hubless.learn.context import Context, Message, State
from hubless.learn.crossing import crossing
from hubless.learn.moment import Moment
from hubless.learn.plan import Chatter, Exchange
from hubless.learn.secure import Hiding
from hubless.learn.swaps import Address, Packets, Swapping
from hubless.learn.wire import Delivery, charge

NOBODY = -1  # the sender of a sum
TRIPS = 2  # peers and receivers hear of each other before the messages and after them
SMALL = Raw()
SWAPS = 5  # of an exchange whose inboxes are summed
NOTHING = b""  # from one that has nothing to say, so that nobody waits for it

Pair = tuple[int, int]  # who speaks, and who hears

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


def secure_sums(moment: Moment, delivery: Delivery, said: Said) -> Swapping[tuple[list[tuple[int, Entry]], list[int]]]:
    """Receivers with the sum of their inbox, and those whose inbox must stay closed: counted, and told in an event.

    Senders that are alive take part. Those whose message is lost, late (of weight 0) or damaged are missing in the sum.
    A message of other names or shapes than most have is refused; wrong numbers cannot be seen.
    """
    post = _Post(moment, delivery, said)
    yield from post.deal()
    yield from post.send()
    found = yield from post.open()
    post.charge()
    return found, sorted(post.closed)


@dataclass
class _Inbox:
    """One inbox: its planned senders, the edges of those that are alive, and how far it has come.

    deals:    by sender, where the receiver is held here
    dealt:    what each sender that is held here knows of that
    kept:     senders whose message counts, unless it goes missing
    messages: that may be added to each other
    """

    to: int
    group: tuple[int, ...]
    senders: dict[int, int]
    kept: list[int]
    deals: dict[int, Message] = field(default_factory=dict)
    dealt: dict[int, tuple[int, ...]] = field(default_factory=dict)
    said: dict[int, bytes] = field(default_factory=dict)
    messages: dict[int, Message] = field(default_factory=dict)
    share: float = 0.0

    @property
    def arrived(self) -> tuple[int, ...]:
        """Senders of the sum."""
        return tuple(sorted(self.messages))


class _Post:
    """The messages of one exchange, and what they cost; what no shard can hear is left to others."""

    def __init__(self, moment: Moment, delivery: Delivery, said: Said) -> None:
        self.moment, self.delivery, self.said = moment, delivery, said
        codec = moment.wiring.codec
        assert isinstance(codec.stages[-1], Hiding)
        self.hiding = codec.stages[-1]
        self.before = replace(codec, stages=codec.stages[:-1])
        self.held = moment.wiring.population.held.tolist()
        self.sizes: dict[int, int] = {}
        self.sent = torch.zeros(moment.wiring.n, dtype=torch.float64)
        self.small = 0
        self.fresh: dict[int, State] = {}
        self.closed: dict[int, str] = {}
        self.inboxes = list(self._inboxes())

    def _inboxes(self) -> Iterable[_Inbox]:
        exchange, delivery = self.moment.exchange, self.delivery
        planned = edges_into(exchange.src, exchange.dst, exchange)
        for to, edges in sorted(edges_into(delivery.src, delivery.dst, exchange).items()):
            group = tuple(sorted(exchange.src[planned[to]].tolist()))
            try:
                self.hiding.check(len(group), self.before.stages)
            except ConfigError as error:
                if self.held[to]:
                    self.closed[to] = str(error)
                continue
            senders = {int(delivery.src[edge]): edge for edge in edges}
            kept = [s for s, edge in senders.items() if bool(delivery.arrived[edge]) and delivery.weight[edge] > 0]
            yield _Inbox(to, group, senders, kept)

    # five swaps

    def deal(self) -> Swapping[None]:
        """Deals go to the receiver, and whose it has goes back."""
        every = [(peer, inbox.to) for inbox in self.inboxes for peer in inbox.senders]
        deals: dict[Pair, Message] = {}
        for inbox in self.inboxes:
            for peer in self._here(inbox.senders):
                deals[peer, inbox.to] = self.hiding.deal(self._context(peer, inbox))
        heard = yield from self._small(every, deals, "deals")
        dealt: dict[Pair, Message] = {}
        for inbox in self._opening():
            ctx = self._context(inbox.to, inbox)
            for peer in inbox.senders:
                m = heard.get((peer, inbox.to))
                if m is not None and self._accepted(peer, inbox.to, self.hiding.accept_deal, peer, m, ctx):
                    inbox.deals[peer] = m
            ids = torch.tensor(sorted(inbox.deals), dtype=torch.int32)
            dealt |= {(inbox.to, peer): {"dealt": ids} for peer in inbox.deals}
        heard = yield from self._small(_back(every), dealt, "dealt")
        for inbox in self.inboxes:
            for peer in self._here(inbox.senders):
                if (m := heard.get((inbox.to, peer))) is not None:
                    self._accepted(inbox.to, peer, _note, inbox, peer, m)

    def send(self) -> Swapping[None]:
        """Masked messages go to the receiver, where those that may be added to each other are kept."""
        packets: dict[Pair, bytes] = {}
        for inbox in self.inboxes:
            for peer, edge in inbox.senders.items():
                if peer not in inbox.dealt:
                    continue
                ctx = self._context(peer, inbox, senders=inbox.dealt[peer])
                data = self._encoded(peer, self.said(peer, inbox.to), ctx)
                if data is not None:
                    self.sizes[edge] = len(data)
                    packets[peer, inbox.to] = data
                    inbox.said[peer] = data
        heard = yield from self._carried(self._kept(), packets.get, "")
        for inbox in self._opening():
            came = {
                peer: heard[peer, inbox.to] for peer in inbox.kept if peer in inbox.deals and (peer, inbox.to) in heard
            }
            inbox.messages = self._unpacked(came, inbox.to)
            shares = {float(self.delivery.weight[inbox.senders[peer]]) for peer in inbox.messages}
            if len(shares) > 1:
                self._shut(inbox, "senders have several weights")
            elif shares:
                inbox.share = shares.pop()
            elif came:
                self._shut(inbox, "no message can be used")

    def open(self) -> Swapping[list[tuple[int, Entry]]]:
        """What helps each sender that arrived goes to it, and its answer back; then the sum is learned."""
        kept = self._kept()
        told: dict[Pair, Message] = {}
        for inbox in self._opening():
            ctx = self._context(inbox.to, inbox, senders=inbox.arrived)
            told |= {(inbox.to, peer): self.hiding.relay(peer, inbox.deals, ctx) for peer in inbox.messages}
        heard = yield from self._small(_back(kept), told, "relay")
        answers: dict[Pair, Message] = {}
        for inbox in self.inboxes:
            for peer in inbox.said:
                if (m := heard.get((inbox.to, peer))) is not None:
                    ctx = self._context(peer, inbox)
                    self._accepted(inbox.to, peer, self._answer, answers, (peer, inbox.to), m, ctx)
        heard = yield from self._small(kept, answers, "answers")
        found = []
        for inbox in self._opening():
            if inbox.messages:
                ctx = self._context(inbox.to, inbox, senders=inbox.arrived)
                given = {
                    peer: m
                    for peer in inbox.messages
                    if (m := heard.get((peer, inbox.to))) is not None
                    and self._accepted(peer, inbox.to, self.hiding.accept_answer, m, ctx)
                }
                try:
                    mean = self._mean(inbox, given, ctx)
                except (MessageError, ConfigError) as error:
                    self._shut(inbox, str(error))
                    continue
                found.append((inbox.to, Entry(ctx.senders, len(inbox.messages) * inbox.share, mean)))
        return found

    def charge(self) -> None:
        """Count what was sent, keep what senders remember, and tell what stayed closed."""
        moment, wiring, delivery = self.moment, self.moment.wiring, self.delivery
        edges = torch.tensor(sorted(self.sizes), dtype=torch.int64)
        sent = Delivery(*(part[edges] for part in (delivery.src, delivery.dst, delivery.weight, delivery.arrived)))
        sizes = torch.tensor([self.sizes[edge] for edge in edges.tolist()], dtype=torch.float64)
        charge(wiring.meter, sent, sizes, wiring.links)
        wiring.meter.listen(Chatter(self.sent, self.small, TRIPS if self.small else 0), wiring.links)
        for peer, s in self.fresh.items():
            moment.put(peer, None, s)
        if self.closed:
            first, why = min(self.closed.items())
            text = f"inboxes in {moment.exchange.name!r} that stayed closed: {{times}}; that of peer {first}: {why}"
            wiring.tell(text, moment.k, 5, first, times=len(self.closed))

    # carrying

    def _small(self, pairs: Sequence[Pair], said: Mapping[Pair, Message], beside: str) -> Swapping[dict[Pair, Message]]:
        """Small messages, which are sent as they are: what came to those that are held here."""
        for (peer, to), m in said.items():
            if peer != to:
                self.sent[peer] += SMALL.length(m)
                self.small += 1
        found = {one: m for one, m in said.items() if self.held[one[1]]}
        if not self.moment.wiring.population.whole:
            speak = {one: m for one, m in said.items() if not self.held[one[1]]}
            came = yield from self._crossed(pairs, lambda one: SMALL.pack(speak[one]) if one in speak else None, beside)
            for one, data in came.items():
                try:
                    found[one] = SMALL.unpack(data)
                except CodecError as error:
                    self._refused(*one, error)
        return found

    def _carried(
        self, pairs: Sequence[Pair], speak: Callable[[Pair], bytes | None], beside: str
    ) -> Swapping[dict[Pair, bytes]]:
        found = {one: data for one in pairs if self.held[one[0]] and (data := speak(one)) is not None}
        if not self.moment.wiring.population.whole:
            found |= yield from self._crossed(pairs, speak, beside)
        return found

    def _crossed(
        self, pairs: Sequence[Pair], speak: Callable[[Pair], bytes | None], beside: str
    ) -> Swapping[dict[Pair, bytes]]:
        """What came from other shards; who has nothing to say says so."""

        def words(one: Address) -> bytes:
            assert one[1] is not None
            return speak((one[0], one[1])) or NOTHING

        ends = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        came: Packets = yield from crossing(self.moment, ends[:, 0], ends[:, 1], words, beside, apart=True)
        return {(peer, to): data for (peer, to), data in came.items() if to is not None and data != NOTHING}

    def _kept(self) -> list[Pair]:
        return [(peer, inbox.to) for inbox in self.inboxes for peer in inbox.kept]

    def _here(self, peers: Iterable[int]) -> list[int]:
        return [peer for peer in peers if self.held[peer]]

    def _opening(self) -> list[_Inbox]:
        """Inboxes of receivers that are held here."""
        return [inbox for inbox in self.inboxes if self.held[inbox.to] and inbox.to not in self.closed]

    # acts

    def _context(self, peer: int, inbox: _Inbox, **more: tuple[int, ...]) -> Context:
        return self.moment.context(peer, to=inbox.to, group=inbox.group, **more)

    def _accepted(self, sender: int, to: int, act: Callable[..., None], *given: object) -> bool:
        """Whether a small message is what it should be; one that is not is counted and told."""
        try:
            act(*given)
        except MessageError as error:
            self._refused(sender, to, error)
            return False
        return True

    def _refused(self, sender: int, to: int, error: MessageError) -> None:
        self.moment.undecodable((sender, to), error)
        self.moment.wiring.meter.rejected += 1

    def _shut(self, inbox: _Inbox, why: str) -> None:
        self.closed[inbox.to] = why
        self.moment.wiring.meter.rejected += len(inbox.messages)

    def _answer(self, answers: dict[Pair, Message], one: Pair, told: Message, ctx: Context) -> None:
        answers[one] = self.hiding.answer(told, ctx)

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

    def _unpacked(self, heard: Mapping[int, bytes], to: int) -> dict[int, Message]:
        """Messages that may be added to each other."""
        found: dict[int, Message] = {}
        for peer, data in heard.items():
            try:
                found[peer] = self.before.packer.unpack(data)
            except CodecError as error:
                self.moment.undecodable((peer, to), error)
        shapes = {
            peer: str([(name, value.dtype, value.shape) for name, value in m.items()]) for peer, m in found.items()
        }
        usual = Counter(shapes.values()).most_common(1)
        for peer in [peer for peer in found if shapes[peer] != usual[0][0]]:
            text = f"message of peer {peer} refused: it has other names or shapes than those of most"
            self.moment.wiring.tell(text, self.moment.k, 4, peer)
            del found[peer]
        self.moment.wiring.meter.rejected += len(heard) - len(found)
        return found

    def _mean(self, inbox: _Inbox, answers: Mapping[int, Message], ctx: Context) -> Message:
        """The mean of the messages."""
        total = self.hiding.total(inbox.messages, inbox.deals, answers, ctx)
        count = len(inbox.messages)
        mean = self.before.inverse(self.hiding.inverse(total, count, ctx), count, ctx)
        self.moment.wiring.merge.accept(NOBODY, mean, ctx)
        return mean


def _back(pairs: Sequence[Pair]) -> list[Pair]:
    return [(to, peer) for peer, to in pairs]


def _note(inbox: _Inbox, peer: int, m: Message) -> None:
    """Whose deals the receiver has, as one of them hears it. Raises CodecError."""
    ids = m.get("dealt")
    if ids is None or ids.dtype != torch.int32 or ids.dim() != 1:
        raise CodecError("secure sum: dealt must be ids of peers")
    dealt = tuple(ids.tolist())
    if sorted({*dealt, peer} & set(inbox.group)) != list(dealt):
        raise CodecError("secure sum: dealt must be senders of this inbox in order, and this one among them")
    inbox.dealt[peer] = dealt
