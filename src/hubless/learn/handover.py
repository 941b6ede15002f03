"""The aggregator role moves: its model and its entries of the book travel, and vanish from everyone else."""

from __future__ import annotations

from torch import Tensor

from hubless.learn.context import Message
from hubless.learn.plan import Book, Exchange
from hubless.learn.population import leaves
from hubless.learn.wire import charge, deliver
from hubless.learn.wiring import Wiring
from hubless.net.faults import Weather


def hand(wiring: Wiring, step: Exchange, k: int, weather: Weather, said: Message) -> list[int]:
    """Move the role's entries of the book from ``step.src`` to ``step.dst``; who holds the role afterwards.

    A message that is lost reaches no heir, and one that reaches nobody leaves the role where it was: the holder
    hears no answer. A holder that is gone hands on nothing.

    said: what travels beside the entries: the model, and state that is alike everywhere
    """
    holder = int(step.src[0])
    delivery = deliver(step, weather, k, None)
    books = wiring.population.books
    names = (*wiring.merge.role, *wiring.merge.reduce.role)
    role = {name: books.get(holder, {})[name] for name in names if name in books.get(holder, {})}
    tensors = {path: value for path, value in leaves(role) if isinstance(value, Tensor)}
    charge(wiring.meter, delivery, wiring.codec.packer.length({**said, **tensors}), wiring.links)
    heirs: list[int] = delivery.kept[1].tolist()
    if not heirs:
        there = bool(weather.alive[holder])
        why = "handing it on reached nobody" if there else "which is gone, so nobody learns"
        wiring.events.append(f"the aggregator role stays with peer {holder}, {why}")
        return [holder] if there else []
    for book in books.values():
        for name in names:
            book.pop(name, None)
    for peer in heirs:
        wiring.population.book(peer).update(_copied(role))
    return heirs


def _copied(book: Book) -> Book:
    return {name: _copied(value) if isinstance(value, dict) else value for name, value in book.items()}
