"""The aggregator role moves: its model and its entries of the book travel, and vanish from everyone else."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from hubless.errors import CodecError
from hubless.learn.context import Message
from hubless.learn.crossing import PLAIN, arrived, crossing
from hubless.learn.moment import Moment
from hubless.learn.plan import Book
from hubless.learn.population import leaves, tree
from hubless.learn.swaps import Address, Swapping
from hubless.learn.wire import charge, deliver
from hubless.net.faults import Weather

SAID, ROLE, SCALARS = "said/", "role/", "scalars"  # in the message that carries a role


def hand(moment: Moment, weather: Weather, said: Message | None) -> Swapping[tuple[list[int], Message]]:
    """Move the role's entries of the book from the exchange's source to its receivers.

    Returns who holds the role afterwards, and what was said.

    A message that is lost reaches no heir, and one that reaches nobody leaves the role where it was: the holder
    hears no answer. A holder that is gone hands on nothing.

    said: what travels beside the entries: the model, and state that is alike everywhere; None where the holder's
          shard knows it
    """
    wiring, step = moment.wiring, moment.exchange
    holder = int(step.src[0])
    delivery = deliver(step, weather, moment.k, None)
    books = wiring.population.books
    names = (*wiring.merge.role, *wiring.merge.reduce.role)
    role = {name: books.get(holder, {})[name] for name in names if name in books.get(holder, {})}
    tensors = {path: value for path, value in leaves(role) if isinstance(value, Tensor)}
    size = 0 if said is None else wiring.codec.packer.length({**said, **tensors})
    charge(wiring.meter, delivery, size, wiring.links)
    if not wiring.population.whole:
        src, dst, _ = delivery.kept
        heard = yield from crossing(moment, src, dst, lambda _: _packed(said or {}, role))
        found = {one: parts for one, data in heard.items() if (parts := _heard(moment, one, data)) is not None}
        delivery = arrived(moment, delivery, {one: heard[one] for one in found})
        for parts in found.values():
            said, role = parts
    heirs: list[int] = delivery.kept[1].tolist()
    if not heirs:
        there = bool(weather.alive[holder])
        why = "handing it on reached nobody" if there else "which is gone, so nobody learns"
        wiring.tell(f"the aggregator role stays with peer {holder}, {why}", moment.k)
        return [holder] if there else [], {}
    for book in books.values():
        for name in names:
            book.pop(name, None)
    for peer in heirs:
        if bool(wiring.population.held[peer]):
            wiring.population.book(peer).update(_copied(role))
    return heirs, said or {}


def _packed(said: Message, role: Book) -> bytes:
    flat = dict(leaves(role))
    tensors = {ROLE + path: value for path, value in flat.items() if isinstance(value, Tensor)}
    scalars = json.dumps({path: value for path, value in flat.items() if not isinstance(value, Tensor)}).encode()
    text = torch.frombuffer(bytearray(scalars), dtype=torch.uint8)
    return PLAIN.pack({**{SAID + name: value for name, value in said.items()}, **tensors, SCALARS: text})


def _heard(moment: Moment, one: Address, data: bytes) -> tuple[Message, Book] | None:
    """What a holder hands on; None, and told, when it cannot be used."""
    try:
        said, role = _unpacked(data)
    except CodecError as error:
        moment.undecodable(one, error)
        moment.wiring.meter.rejected += 1
        return None
    if not moment.accepts(moment.listener, one[0], said):
        moment.wiring.meter.rejected += 1
        return None
    return said, role


def _unpacked(data: bytes) -> tuple[Message, Book]:
    """Raises CodecError."""
    m = PLAIN.unpack(data)
    try:
        scalars: dict[str, Any] = json.loads(bytes(m[SCALARS].tolist()))
        role = tree("role", {name: value for name, value in m.items() if name.startswith(ROLE)}, scalars)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CodecError(f"no role: {error!r}") from None
    return {n.removeprefix(SAID): v for n, v in m.items() if n.startswith(SAID)}, role


def _copied(book: Book) -> Book:
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in book.items()}
