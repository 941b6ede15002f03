"""Exchanges one message at a time: any merge, codec, attack and judge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.moment import Moment
from hubless.learn.slots import Merge
from hubless.learn.wire import Delivery, charge

Address = tuple[int, int | None]  # sender, and receiver where messages are made for one


def exchange_messages(moment: Moment, delivery: Delivery) -> None:
    """Make, attack, encode, count, deliver, accept, judge, join and apply; nothing is applied before all are made."""
    wiring = moment.wiring
    own = _made(moment, delivery)
    said = _attacked(moment, own)
    away = set(delivery.src[delivery.src != delivery.dst].tolist())
    coded = {address for address in said if address[0] in away or moment.exchange.collect}
    sizes = _coded(moment, said, coded)
    pairs = zip(delivery.src.tolist(), delivery.dst.tolist(), strict=True)
    each = [sizes.get(_address(moment, a, b), 0) for a, b in pairs]
    charge(wiring.meter, delivery, torch.tensor(each, dtype=torch.float64), wiring.links)
    _deliver(moment, delivery, own, said)


def _address(moment: Moment, sender: int, to: int) -> Address:
    return sender, to if moment.wiring.merge.per_target else None


def _context(moment: Moment, address: Address) -> Context:
    return moment.context(moment.wiring.behind(address[0]), to=address[1])


def _made(moment: Moment, delivery: Delivery) -> dict[Address, Message]:
    pairs = zip(delivery.src.tolist(), delivery.dst.tolist(), strict=True)
    addresses = sorted({_address(moment, a, b) for a, b in pairs}, key=lambda one: (one[0], one[1] or 0))
    behind = moment.wiring.behind
    return {(peer, to): moment.message(behind(peer), to) for peer, to in addresses}


def _attacked(moment: Moment, own: Mapping[Address, Message]) -> dict[Address, Message]:
    said, attack = dict(own), moment.wiring.attack
    if attack is not None:
        seen = [m for (peer, _), m in own.items() if peer not in moment.wiring.hostile]
        for address, m in own.items():
            if address[0] in moment.wiring.hostile:
                lie = moment.wiring.lie(m, _context(moment, address), seen if attack.sees == "honest" else None)
                said[address] = lie
    return said


def _coded(moment: Moment, said: dict[Address, Message], coded: set[Address]) -> dict[Address, int]:
    """Bytes of each message; the message becomes what its receiver decodes, and goes when that fails."""
    codec, wiring = moment.wiring.codec, moment.wiring
    if codec.plain:
        return {address: codec.length(said[address]) for address in coded}
    sizes: dict[Address, int] = {}
    fresh: dict[int, State] = {}
    for address in [address for address in said if address in coded]:
        peer, ctx = address[0], _context(moment, address)
        s = fresh[peer] if peer in fresh else wiring.population.peer(peer)[2]
        data, fresh[peer] = codec.encode(said[address], s, ctx)
        sizes[address] = len(data)
        try:
            said[address] = codec.decode(data, ctx)
        except MessageError as error:
            wiring.events.append(f"message of peer {peer} does not decode: {error}")
            del said[address]
    for peer, s in fresh.items():
        moment.put(peer, None, s)
    return sizes


def _deliver(
    moment: Moment, delivery: Delivery, own: Mapping[Address, Message], said: Mapping[Address, Message]
) -> None:
    wiring = moment.wiring
    factors = wiring.judged(moment.exchange, {peer: m for (peer, _), m in said.items()})
    src, dst, weight = (part.tolist() for part in delivery.kept)
    inboxes: dict[int, list[tuple[int, float, Message]]] = defaultdict(list)
    heard: set[int] = set()
    joint = wiring.attack is not None and wiring.attack.joint
    for sender, to, share in zip(src, dst, weight, strict=True):
        if joint and to in wiring.hostile:  # an attacker hears each peer once, and not its own identities
            if (sender in wiring.hostile and sender != wiring.behind(sender)) or sender in heard:
                continue
            heard.add(sender)
        address = _address(moment, sender, to)
        mine = sender == to and not moment.exchange.collect
        m = own[address] if mine else said.get(address)
        if m is None or not (mine or moment.accepts(to, sender, m)):
            wiring.meter.rejected += 1
            continue
        share *= factors.get(sender, 1.0)
        if share > 0:
            inboxes[wiring.behind(to)].append((sender, share, m))
    new = [(to, *_heard(moment, to, inbox)) for to, inbox in sorted(inboxes.items())]
    for to, w, s in new:
        moment.put(to, w, s)


def _heard(moment: Moment, to: int, inbox: list[tuple[int, float, Message]]) -> tuple[Tensor, State]:
    merge, population, exchange = moment.wiring.merge, moment.wiring.population, moment.exchange
    ids, messages = tuple(sender for sender, _, _ in inbox), [m for _, _, m in inbox]
    weights = torch.tensor([share for _, share, _ in inbox], dtype=torch.float32)
    counts = Counter(name for m in messages for name in m)
    group = tuple(exchange.src[exchange.dst == to].tolist())
    ctx = moment.context(to, group=group, senders=ids, counts=counts)
    _, w, s = population.peer(to)
    book = population.book(to)
    arrived, how = Inbox(ids, weights, messages), moment.wiring.heard(to)
    if isinstance(how, Merge):
        return merge.apply(w, s, book, how.join(arrived, w, s, book, ctx), ctx)
    known = {**ctx.model.groups, **ctx.model.buffers}  # a rule of its own knows nothing of what the merge adds
    arrived = Inbox(ids, weights, [{name: value for name, value in m.items() if name in known} for m in messages])
    return Merge.apply(merge, w, s, book, how(arrived, w, s, book, ctx), ctx)
