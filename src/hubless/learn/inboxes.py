"""Exchanges one message at a time: any merge, codec, attack and judge.

A shard speaks for the peers that it holds, up to where messages cross, and hears for those that it holds from there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.accept import Forms
from hubless.learn.codecs import Codec
from hubless.learn.context import Context, Inbox, Message, State
from hubless.learn.crossing import PLAIN, address, arrived, copied, crossing, unpacked
from hubless.learn.moment import Moment
from hubless.learn.slots import Merge
from hubless.learn.sums import NOBODY, Entry, openly, secure_sums, summed
from hubless.learn.swaps import Address, Packets, Swapping
from hubless.learn.wire import Delivery, charge

UNCODED = b""  # of a message that its sender could not code
Inboxes = dict[int, list[Entry]]
MEMORY = "codec"  # entry of a receiver's book: what a codec that remembers keeps, by sender


def exchange_messages(moment: Moment, delivery: Delivery) -> Swapping[Delivery]:
    """Make, attack, encode, count, deliver, accept, judge, join and apply; nothing is applied before all are made.

    Where the codec hides, a receiver learns the sum of its inbox and no message of it (``sums``). Returns what was
    delivered.
    """
    own = _made(moment, delivery)
    said = yield from _attacked(moment, delivery, own)
    if moment.wiring.codec.hides and summed(moment.exchange):
        inboxes = _own(moment, delivery, own)
        found, closed = yield from secure_sums(moment, delivery, lambda sender, to: said[address(moment, sender, to)])
        for to, entry in found:
            inboxes[moment.wiring.behind(to)].append(entry)
        for to in closed:
            _forget(moment, to)
    else:
        decoded, delivery = yield from _coded(moment, delivery, said)
        inboxes = _deliver(moment, _into(moment, delivery), own, decoded)
    todo = sorted(inboxes.items())
    heard = list(moment.wiring.workers.map(lambda at: _heard(moment, *todo[at]), len(todo)))
    for (to, _), (w, s) in zip(todo, heard, strict=True):
        moment.put(to, w, s)
    return delivery


def _from(moment: Moment, delivery: Delivery) -> Delivery:
    """The edges whose senders are held here."""
    population = moment.wiring.population
    return delivery if population.whole else delivery.only(population.held[delivery.src])


def _into(moment: Moment, delivery: Delivery) -> Delivery:
    """The edges whose receivers are held here."""
    population = moment.wiring.population
    return delivery if population.whole else delivery.only(population.held[delivery.dst])


def _context(moment: Moment, address: Address, **more: Any) -> Context:
    return moment.context(moment.wiring.behind(address[0]), to=address[1], **more)


def _order(address: Address) -> tuple[int, int]:
    return address[0], address[1] or 0


def _made(moment: Moment, delivery: Delivery) -> dict[Address, Message]:
    mine = _from(moment, delivery)
    pairs = zip(mine.src.tolist(), mine.dst.tolist(), strict=True)
    addresses = sorted({address(moment, a, b) for a, b in pairs}, key=_order)
    behind = moment.wiring.behind
    return {(peer, to): moment.message(behind(peer), to) for peer, to in addresses}


def _attacked(moment: Moment, delivery: Delivery, own: Mapping[Address, Message]) -> Swapping[dict[Address, Message]]:
    said, attack = dict(own), moment.wiring.attack
    if attack is not None:
        seen = (yield from _honest(moment, delivery, own)) if attack.sees == "honest" else None
        for one, m in own.items():
            if one[0] in moment.wiring.hostile:
                said[one] = moment.wiring.lie(m, _context(moment, one), seen)
    return said


def _honest(moment: Moment, delivery: Delivery, own: Mapping[Address, Message]) -> Swapping[list[Message]]:
    """The honest messages of all, in order, wherever a hostile peer speaks."""
    wiring = moment.wiring
    found = {one: m for one, m in own.items() if one[0] not in wiring.hostile}
    if not wiring.population.whole:
        pairs = zip(delivery.src.tolist(), delivery.dst.tolist(), strict=True)
        said = sorted({address(moment, a, b) for a, b in pairs if a not in wiring.hostile}, key=_order)
        liars = sorted(wiring.hostile & set(delivery.src.tolist()))
        heard = yield from copied(moment, said, liars, lambda one: PLAIN.pack(own[one]), "honest")
        found |= unpacked(moment, heard)
    return [found[one] for one in sorted(found, key=_order)]


def _own(moment: Moment, delivery: Delivery, own: Mapping[Address, Message]) -> Inboxes:
    """Messages of peers to themselves, which no codec sees, where work is not collected."""
    inboxes: Inboxes = defaultdict(list)
    for sender, to, share in zip(*(part.tolist() for part in _into(moment, delivery).kept), strict=True):
        if sender == to and not moment.exchange.collect and share > 0:
            inboxes[moment.wiring.behind(to)].append(Entry((to,), share, own[address(moment, sender, to)]))
    return inboxes


def _forget(moment: Moment, to: int) -> None:
    """An aggregator that learns nothing goes on from where the round began, not from its own work."""
    if moment.exchange.collect and to in moment.starts:
        moment.put(to, moment.starts[to], {})


def _coded(
    moment: Moment, delivery: Delivery, said: Mapping[Address, Message]
) -> Swapping[tuple[dict[Address, Message], Delivery]]:
    """Charge the bytes of each message, and make of it what its receivers decode; it goes when that fails.

    Returns beside it what was delivered: less than planned, where others than simulated faults keep messages away.
    """
    wiring, codec = moment.wiring, openly(moment.wiring.codec)
    pairs = list(zip(delivery.src.tolist(), delivery.dst.tolist(), strict=True))
    away = {a for a, b in pairs if a != b}
    coded = {one: None for one in said if one[0] in away or moment.exchange.collect}
    packets: dict[Address, bytes] = {}
    if codec.plain:
        sizes = {one: codec.length(said[one]) for one in coded}
    else:
        packets = _encoded(moment, codec, said, coded)
        sizes = {one: len(data) for one, data in packets.items()}
    each = [sizes.get(address(moment, a, b), 0) for a, b in pairs]
    charge(wiring.meter, delivery, torch.tensor(each, dtype=torch.float64), wiring.links)
    came: Packets = {}
    if not wiring.population.whole:
        src, dst, _ = delivery.kept
        plain = codec.plain
        came = yield from crossing(
            moment, src, dst, lambda one: PLAIN.pack(said[one]) if plain else packets.get(one, UNCODED)
        )
        delivery = arrived(moment, delivery, came)
    if codec.plain:
        return {**said, **unpacked(moment, came)}, delivery
    packets |= {one: data for one, data in came.items() if data != UNCODED}
    heard = {one: m for one, m in said.items() if one not in coded}
    decode = _recalled if codec.remembers else _decoded
    return heard | decode(moment, delivery, codec, packets), delivery


def _encoded(
    moment: Moment, codec: Codec, said: Mapping[Address, Message], coded: Iterable[Address]
) -> dict[Address, bytes]:
    packets: dict[Address, bytes] = {}
    fresh: dict[int, State] = {}
    receivers = _receivers(moment) if codec.remembers else {}
    for one in coded:
        peer = one[0]
        s = fresh[peer] if peer in fresh else moment.wiring.population.peer(peer)[2]
        ctx = _context(moment, one, receivers=receivers.get(peer, ()))
        try:
            packets[one], fresh[peer] = codec.encode(said[one], s, ctx)
        except MessageError as error:
            moment.wiring.tell(f"message of peer {peer} cannot be coded: {error}", moment.k, 2, *_order(one))
    for peer, s in fresh.items():
        moment.put(peer, None, s)
    return packets


def _receivers(moment: Moment) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for sender, to in zip(moment.exchange.src.tolist(), moment.exchange.dst.tolist(), strict=True):
        if sender != to:
            found[sender] += (to,)
    return found


def _decoded(
    moment: Moment, delivery: Delivery, codec: Codec, packets: Mapping[Address, bytes]
) -> dict[Address, Message]:
    """Every message once."""
    if not moment.wiring.population.whole:
        src, dst, _ = _into(moment, delivery).kept
        packets = {
            one: packets[one]
            for a, b in zip(src.tolist(), dst.tolist(), strict=True)
            if (one := address(moment, a, b)) in packets
        }
    found = {}
    for one, data in packets.items():
        try:
            found[one] = codec.decode(data, _context(moment, one))
        except MessageError as error:
            moment.undecodable(one, error)
    return found


def _recalled(
    moment: Moment, delivery: Delivery, codec: Codec, packets: Mapping[Address, bytes]
) -> dict[Address, Message]:
    """Every message once for each receiver, with what that one keeps of its sender."""
    found: dict[Address, Message] = {}
    failed: Counter[str] = Counter()
    src, dst, _ = _into(moment, delivery).kept
    for sender, to in zip(src.tolist(), dst.tolist(), strict=True):
        one = address(moment, sender, to)
        if one not in packets or (sender == to and not moment.exchange.collect):
            continue
        memory = moment.wiring.population.book(to).setdefault(MEMORY, {}).setdefault(sender, {})
        try:
            found[sender, to] = codec.decode(packets[one], _context(moment, one, memory=memory))
        except MessageError as error:
            failed[str(error)] += 1
    for why, times in failed.items():
        text = f"messages in {moment.exchange.name!r} that do not decode: {{times}}: {why}"
        moment.wiring.tell(text, moment.k, 3, times=times)
    return found


def _deliver(
    moment: Moment, delivery: Delivery, own: Mapping[Address, Message], said: Mapping[Address, Message]
) -> Inboxes:
    wiring = moment.wiring
    factors = wiring.judged(moment.exchange, {peer: m for (peer, _), m in said.items()})
    src, dst, weight = (part.tolist() for part in delivery.kept)
    inboxes: Inboxes = defaultdict(list)
    forms: dict[int, Forms] = defaultdict(Forms)
    heard: set[int] = set()
    joint = wiring.attack is not None and wiring.attack.joint
    for sender, to, share in zip(src, dst, weight, strict=True):
        if joint and to in wiring.hostile:  # an attacker hears each peer once, and not its own identities
            if (sender in wiring.hostile and sender != wiring.behind(sender)) or sender in heard:
                continue
            heard.add(sender)
        one = address(moment, sender, to)
        mine = sender == to and not moment.exchange.collect
        m = own[one] if mine else said.get((sender, to) if wiring.codec.remembers else one)
        if m is None or not (mine or moment.accepts(to, sender, m, forms[to] if wiring.wary else None)):
            wiring.meter.rejected += 1
            continue
        share *= factors.get(sender, 1.0)
        if share > 0:
            inboxes[wiring.behind(to)].append(Entry((sender,), share, m))
    return inboxes


def _heard(moment: Moment, to: int, inbox: list[Entry]) -> tuple[Tensor, State]:
    merge, population, exchange = moment.wiring.merge, moment.wiring.population, moment.exchange
    ids = tuple(entry.senders[0] if len(entry.senders) == 1 else NOBODY for entry in inbox)
    senders = tuple(sender for entry in inbox for sender in entry.senders)
    messages = [entry.message for entry in inbox]
    weights = torch.tensor([entry.weight for entry in inbox], dtype=torch.float32)
    counts: Counter[str] = Counter()
    for entry in inbox:
        counts.update(dict.fromkeys(entry.message, len(entry.senders)))
    group = tuple(exchange.src[exchange.dst == to].tolist())
    ctx = moment.context(to, group=group, senders=senders, counts=counts)
    _, w, s = population.peer(to)
    book = population.book(to)
    arrived, how = Inbox(ids, weights, messages), moment.wiring.heard(to)
    if isinstance(how, Merge):
        return merge.apply(w, s, book, how.join(arrived, w, s, book, ctx), ctx)
    known = {**ctx.model.groups, **ctx.model.buffers}  # a rule of its own knows nothing of what the merge adds
    arrived = Inbox(ids, weights, [{name: value for name, value in m.items() if name in known} for m in messages])
    return Merge.apply(merge, w, s, book, how(arrived, w, s, book, ctx), ctx)
