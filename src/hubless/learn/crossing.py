"""Messages that cross from one shard to another: what peers held here say to others, and what comes for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from hubless.errors import CodecError
from hubless.learn.codecs import Raw
from hubless.learn.context import Message
from hubless.learn.moment import Moment
from hubless.learn.swaps import Address, Packets, Swap, Swapping
from hubless.learn.wire import Delivery

PLAIN = Raw()  # of messages that no codec changes, and of what goes beside messages


def address(moment: Moment, sender: int, to: int) -> Address:
    """What names the message of a sender to a receiver."""
    return sender, to if moment.wiring.merge.per_target else None


def crossing(
    moment: Moment, src: Tensor, dst: Tensor, speak: Callable[[Address], bytes | None], beside: str = "",
    *, apart: bool = False,
) -> Swapping[Packets]:  # fmt: skip
    """Carry messages over the edges ``src [E]`` to ``dst [E]`` that lead from one shard to another; what came.

    speak:  the bytes of a message of a peer that is held here; None: it has none
    beside: what goes, where it is not the exchange's messages
    apart:  every receiver hears another message, whatever the merge
    """
    named: Callable[[int, int], Address] = _both if apart else partial(address, moment)
    held = moment.wiring.population.held
    here, there = held[src], held[dst]
    routes: dict[Address, list[int]] = defaultdict(list)
    for sender, to in _pairs(src, dst, here & ~there):
        routes[named(sender, to)].append(to)
    coming = dict.fromkeys(named(sender, to) for sender, to in _pairs(src, dst, ~here & there))
    packets = {one: data for one in _sorted(routes) if (data := speak(one)) is not None}
    heard = yield Swap(
        moment.t, moment.k, next(moment.numbers), moment.exchange.name + (f"/{beside}" if beside else ""), packets,
        {one: tuple(routes[one]) for one in packets}, tuple(expect := _sorted(coming)),
    )  # fmt: skip
    return {one: heard[one] for one in expect if one in heard}


def copied(
    moment: Moment, addresses: list[Address], listeners: list[int], speak: Callable[[Address], bytes], beside: str
) -> Swapping[Packets]:
    """Carry the messages of all ``addresses`` to wherever some of the ``listeners`` are held; what came."""
    held = moment.wiring.population.held
    others = tuple(peer for peer in listeners if not bool(held[peer]))
    packets = {one: speak(one) for one in addresses if bool(held[one[0]])} if others else {}
    listening = len(others) < len(listeners)
    expect = tuple(one for one in addresses if listening and not bool(held[one[0]]))
    heard = yield Swap(
        moment.t, moment.k, next(moment.numbers), f"{moment.exchange.name}/{beside}", packets,
        dict.fromkeys(packets, others), expect,
    )  # fmt: skip
    return {one: heard[one] for one in expect if one in heard}


def arrived(moment: Moment, delivery: Delivery, heard: Packets) -> Delivery:
    """The delivery without what should have come from elsewhere and did not."""
    held = moment.wiring.population.held
    src, dst = delivery.src, delivery.dst
    coming = ~held[src] & held[dst]
    missing = torch.zeros(len(src), dtype=torch.bool)
    for at in torch.nonzero(coming & delivery.arrived).flatten().tolist():
        missing[at] = address(moment, int(src[at]), int(dst[at])) not in heard
    if not bool(missing.any()):
        return delivery
    return Delivery(src, dst, delivery.weight, delivery.arrived & ~missing)


def unpacked(moment: Moment, heard: Packets) -> dict[Address, Message]:
    """Messages that no codec changed; what does not decode is told."""
    found = {}
    for one, data in heard.items():
        try:
            found[one] = PLAIN.unpack(data)
        except CodecError as error:
            moment.undecodable(one, error)
    return found


def _both(sender: int, to: int) -> Address:
    return sender, to


def _pairs(src: Tensor, dst: Tensor, keep: Tensor) -> Iterable[tuple[int, int]]:
    return zip(src[keep].tolist(), dst[keep].tolist(), strict=True)


def _sorted(addresses: Mapping[Address, object]) -> list[Address]:
    return sorted(addresses, key=lambda one: (one[0], -1 if one[1] is None else one[1]))
