"""What a node tells an observer of a round, and what the observer makes of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from hubless.errors import MessageError
from hubless.learn.codecs import Raw
from hubless.learn.context import Message
from hubless.learn.node.words import Event, Report, Spent
from hubless.learn.population import Population, leaves, tree
from hubless.learn.shards import Report as Done
from hubless.learn.shards import Shard
from hubless.learn.wire import Cost, Traffic

RAW = Raw()
EVENTS = 20  # of one node and round that are told


def told(
    shard: Shard, t: int, done: Done, news: list[str], dropped: dict[str, int], missing: int, *,
    whole: bool, books: bool,
) -> Report:  # fmt: skip
    """The report of a round; ``whole``: with rows and state, and with ``books`` what else the peers remember."""
    mine = set(shard.held)
    population = shard.wiring.population
    tensors, scalars = _state(population, books=books) if whole else ({}, {})
    return Report(
        t, [peer for peer in torch.nonzero(done.trained).flatten().tolist() if peer in mine], done.losses.tolist(),
        done.places.tolist(), [_spent(cost) for cost in done.costs], done.rejected, missing,
        [Event(list(one.order), one.text, one.times) for one in done.events[:EVENTS]], news, dropped, done.holders,
        json.dumps(scalars), RAW.pack(tensors) if tensors else b"",
    )  # fmt: skip


def costs(report: Report, n: int) -> list[Cost]:
    """What a node spent. Raises MessageError for what names no peer."""
    found: list[Cost] = []
    for spent in report.costs:
        if not spent.src:
            found.append(max(0.0, spent.seconds))
            continue
        if not len(spent.src) == len(spent.dst) == len(spent.each) or not _peers([*spent.src, *spent.dst], n):
            raise MessageError("a report with costs of nobody")
        each = torch.tensor(spent.each, dtype=torch.float64)
        arrived = torch.ones(len(each), dtype=torch.bool)
        found.append(Traffic(torch.tensor(spent.src), torch.tensor(spent.dst), each, arrived))
    return found


def take(report: Report, peers: Collection[int], population: Population) -> None:
    """Put what a node sent of its peers into the observer's population. Raises MessageError, and then changes nothing.

    A row or state of another shape, and anything about other peers, is refused.
    """
    if not report.tensors:
        return
    m = RAW.unpack(report.tensors)
    rows: dict[int, Tensor] = {}
    states: dict[int, dict[str, Tensor]] = {}
    for peer in sorted(peers):
        cohort = population.cohorts[int(population.cohort_of[peer])]
        wanted: dict[str, Tensor] = {"row": cohort.rows[0], **{f"state/{n}": v[0] for n, v in cohort.state.items()}}
        for name, like in wanted.items():
            value = m.get(f"{peer}/{name}")
            if value is None or value.shape != like.shape or value.dtype != like.dtype:
                raise MessageError(f"a report without a fitting {name} of peer {peer}")
        rows[peer] = m[f"{peer}/row"]
        states[peer] = {name: m[f"{peer}/state/{name}"] for name in cohort.state}
    books = _books(m, report.scalars, peers)
    for peer, row in rows.items():
        cohort = population.cohorts[int(population.cohort_of[peer])]
        cohort.put(population.place[peer : peer + 1], row[None], {n: v[None] for n, v in states[peer].items()})
    for kind, kept in (("book", population.books), ("attack", population.attack_books)):
        kept.update(books[kind])


def _books(m: Message, text: str, peers: Collection[int]) -> dict[str, dict[int, dict[str, Any]]]:
    try:
        scalars = json.loads(text)
        found = {kind: tree(kind, m, scalars.get(kind, {})) for kind in ("book", "attack")}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise MessageError(f"a report with damaged books: {error!r}") from None
    if any(peer not in peers or not isinstance(book, dict) for books in found.values() for peer, book in books.items()):
        raise MessageError("a report with the books of others")
    return found


def _state(population: Population, *, books: bool) -> tuple[Message, dict[str, Any]]:
    tensors: Message = {}
    for cohort in population.cohorts:
        for at, peer in enumerate(cohort.ids.tolist()):
            tensors[f"{peer}/row"] = cohort.rows[at]
            tensors |= {f"{peer}/state/{name}": value[at] for name, value in cohort.state.items()}
    scalars: dict[str, Any] = {}
    if books:
        for kind, kept in (("book", population.books), ("attack", population.attack_books)):
            flat = dict(leaves(kept))
            tensors |= {f"{kind}/{path}": value for path, value in flat.items() if isinstance(value, Tensor)}
            scalars[kind] = {path: value for path, value in flat.items() if not isinstance(value, Tensor)}
    return tensors, scalars


def _spent(cost: Cost) -> Spent:
    if isinstance(cost, Traffic):
        return Spent(0.0, cost.src.tolist(), cost.dst.tolist(), cost.each.tolist())
    return Spent(cost if isinstance(cost, float) else 0.0)


def _peers(peers: Iterable[int], n: int) -> bool:
    return all(0 <= peer < n for peer in peers)
