"""The state of a population: rows, stacked state and books, for one or several shapes of model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hubless.errors import CheckpointError
from hubless.learn import keys
from hubless.learn.context import State
from hubless.learn.model import Model
from hubless.learn.plan import Book

NAMED = 3  # tensors that an error names before it counts the rest


class Cohort:
    """Peers that share a shape of model.

    ids:   ``[n]`` sorted peer ids
    rows:  ``[n, D]``, or ``[1, D]`` when all peers share one model
    state: name -> ``[n, ...]``; names in ``common`` are ``[1, ...]`` when shared
    """

    def __init__(self, model: Model, ids: Tensor, makers: Sequence[Any], seed: int, *, shared: bool, common: set[str]):
        self.model = model
        self.ids = ids
        self.shared = shared
        self.common = common
        first = model.start(_start_key(seed, 0))
        if shared:
            self.rows = first[None].clone()
        elif model.same:
            self.rows = first.repeat(len(ids), 1)
        else:
            rows = [model.start(_start_key(seed, 1 + int(peer))) for peer in ids]
            self.rows = torch.stack(rows) if rows else first.new_zeros(0, model.size)
        self.state: State = {}
        self._add(model.state(), alike=shared)
        for maker in makers:
            self._add(maker.init(model), alike=False)

    def _add(self, entries: State, *, alike: bool) -> None:
        for name, value in entries.items():
            copies = 1 if alike or (self.shared and name in self.common) else len(self.ids)
            self.state[name] = value.expand(copies, *value.shape).clone()

    def to(self, device: str) -> None:
        """Move everything to a device."""
        self.rows = self.rows.to(device)
        self.state = {name: value.to(device) for name, value in self.state.items()}

    def take(self, at: Tensor) -> tuple[Tensor, State]:
        """Copies of the rows and state at positions ``at [C]`` in the cohort."""
        rows = self.rows.expand(len(at), -1).clone() if self.shared else self.rows[at]
        return rows, self.entries(at)

    def view(self, at: Tensor) -> Tensor | None:
        """The rows at positions ``at [C]`` themselves, where they lie one after another."""
        first, count = int(at[0]), len(at)
        if self.shared or not bool((at == torch.arange(first, first + count)).all()):
            return None
        return self.rows[first : first + count]

    def entries(self, at: Tensor) -> State:
        """Copies of the state at positions ``at [C]``, with what is stored once repeated."""
        return {
            name: value[at] if len(value) == len(self.ids) else value.expand(len(at), *value.shape[1:]).clone()
            for name, value in self.state.items()
        }

    def put(self, at: Tensor, rows: Tensor | None, state: State) -> None:
        """Write back rows (unless shared) and the state that is kept one a peer."""
        if rows is not None:
            self.rows[at] = rows
        for name, value in self.state.items():
            if name in state and len(value) == len(self.ids):
                value[at] = state[name].to(value.dtype)


def _start_key(seed: int, peer: int) -> int:
    key = keys.fold(seed, "start", peer)
    assert isinstance(key, int)
    return key


class Population:
    """Every peer, or those that a shard holds: cohorts, books, who is excluded.

    cohort_of: ``[n]`` number of each peer's cohort, -1 for one that is held elsewhere
    place:     ``[n]`` its place in the cohort
    shape_of:  ``[n]`` number of its cohort, wherever it is held
    held:      ``[n]`` who is held here; ``whole`` when all are
    shards:    ids of the peers of all shards, where they are known
    """

    def __init__(
        self, cohorts: Sequence[Cohort], n: int, shape_of: Tensor | None = None, shards: Sequence[Tensor] = ()
    ) -> None:
        self.cohorts = list(cohorts)
        self.n = n
        self.cohort_of = torch.full((n,), -1, dtype=torch.int64)
        self.place = torch.zeros(n, dtype=torch.int64)
        for number, cohort in enumerate(self.cohorts):
            self.cohort_of[cohort.ids] = number
            self.place[cohort.ids] = torch.arange(len(cohort.ids))
        self.shape_of = self.cohort_of if shape_of is None else shape_of
        self.held = self.cohort_of >= 0
        self.shards = list(shards)
        self.whole = bool(self.held.all())
        self.books: dict[int, Book] = {}
        self.attack_books: dict[int, Book] = {}
        self.excluded: set[int] = set()

    @property
    def shared(self) -> bool:
        """Whether all peers have one model, stored once."""
        return self.cohorts[0].shared

    def book(self, peer: int) -> Book:
        """A peer's irregular memory."""
        return self.books.setdefault(peer, {})

    def attack_book(self, peer: int) -> Book:
        """A hostile peer's own memory, which no merge can read."""
        return self.attack_books.setdefault(peer, {})

    def members(self) -> list[int]:
        """Peers that are not excluded."""
        return [peer for peer in range(self.n) if peer not in self.excluded]

    def peer(self, peer: int) -> tuple[Cohort, Tensor, State]:
        """One peer's cohort, row ``[D]`` and state."""
        cohort = self.cohorts[int(self.cohort_of[peer])]
        rows, state = cohort.take(self.place[peer : peer + 1])
        return cohort, rows[0], {name: value[0] for name, value in state.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint keeps as tensors; books by path."""
        found: dict[str, Tensor] = {}
        for number, cohort in enumerate(self.cohorts):
            found[f"cohort.{number}/rows"] = cohort.rows
            for name, value in cohort.state.items():
                found[f"cohort.{number}/state/{name}"] = value
        for kind, books in (("book", self.books), ("attack", self.attack_books)):
            for path, value in leaves(books):
                if isinstance(value, Tensor):
                    found[f"{kind}/{path}"] = value
        return found

    def scalars(self) -> dict[str, Any]:
        """Everything else that a checkpoint keeps, as JSON."""
        found: dict[str, Any] = {"excluded": sorted(self.excluded)}
        for kind, books in (("book", self.books), ("attack", self.attack_books)):
            found[kind] = {path: value for path, value in leaves(books) if not isinstance(value, Tensor)}
        return found

    def portion(self, ids: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``tensors`` and ``scalars`` are of a population that holds only the peers ``ids``."""
        wanted = set(ids.tolist())
        books = {peer: book for peer, book in self.books.items() if peer in wanted}
        attack_books = {peer: book for peer, book in self.attack_books.items() if peer in wanted}
        cohorts = []
        for cohort in self.cohorts:
            part = copy.copy(cohort)
            keep = torch.isin(cohort.ids, ids)
            part.ids = cohort.ids[keep]
            part.rows = cohort.rows if cohort.shared else cohort.rows[keep]
            part.state = {n: v[keep] if len(v) == len(cohort.ids) else v for n, v in cohort.state.items()}
            cohorts.append(part)
        part_of = Population(cohorts, self.n, self.shape_of)
        part_of.books, part_of.attack_books, part_of.excluded = books, attack_books, self.excluded
        return part_of.tensors(), part_of.scalars()

    def collect(self, parts: Sequence[tuple[Tensor, dict[str, Tensor], dict[str, Any]]]) -> None:
        """Take over what several shards hold: the ids of each, its ``tensors`` and its ``scalars``."""
        self.books, self.attack_books = {}, {}
        for ids, tensors, scalars in parts:
            for number, cohort in enumerate(self.cohorts):
                at = torch.nonzero(torch.isin(cohort.ids, ids)).flatten()
                _scatter(cohort.rows, at, tensors[f"cohort.{number}/rows"], one=cohort.shared)
                for name, value in cohort.state.items():
                    _scatter(value, at, tensors[f"cohort.{number}/state/{name}"], one=len(value) < len(cohort.ids))
            self.books |= tree("book", tensors, scalars["book"])
            self.attack_books |= tree("attack", tensors, scalars["attack"])
        self.books, self.attack_books = dict(sorted(self.books.items())), dict(sorted(self.attack_books.items()))

    def restore(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """The inverse of ``tensors`` and ``scalars``.

        Raises CheckpointError naming the tensors of the cohorts that are missing, unexpected or of another shape.
        """
        wanted: dict[str, Tensor] = {}
        for number, cohort in enumerate(self.cohorts):
            wanted[f"cohort.{number}/rows"] = cohort.rows
            wanted |= {f"cohort.{number}/state/{name}": value for name, value in cohort.state.items()}
        found = {name: value for name, value in tensors.items() if name.startswith("cohort.")}
        wrong = [f"{name} is missing" for name in wanted if name not in found]
        wrong += [f"{name} is unexpected" for name in found if name not in wanted]
        wrong += [
            f"{name} is {tuple(found[name].shape)}, this run has {tuple(value.shape)}"
            for name, value in wanted.items() if name in found and found[name].shape != value.shape
        ]  # fmt: skip
        if wrong:
            more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise CheckpointError(f"checkpoint: {'; '.join(wrong[:NAMED])}{more}")
        for name, value in wanted.items():
            value.copy_(found[name])
        self.excluded = set(scalars["excluded"])
        self.books = tree("book", tensors, scalars["book"])
        self.attack_books = tree("attack", tensors, scalars["attack"])


def _scatter(into: Tensor, at: Tensor, value: Tensor, *, one: bool) -> None:
    if one:
        into.copy_(value)
    else:
        into[at] = value


def leaves(book: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """The tensors, scalars and lists of nested dicts, each with its path."""
    if isinstance(book, dict) and book:
        for key, value in book.items():
            label = f"i{key}" if isinstance(key, int) else f"s{key}"
            yield from leaves(value, f"{path}\x1f{label}" if path else label)
    elif path:
        yield path, book


def tree(kind: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> dict[Any, Any]:
    """The inverse of ``leaves``: ``tensors`` are named ``KIND/PATH``, ``scalars`` by their path."""
    found: dict[Any, Any] = {}
    mine = {p.removeprefix(f"{kind}/"): value.clone() for p, value in tensors.items() if p.startswith(f"{kind}/")}
    for path, value in {**scalars, **mine}.items():
        *stem, last = [int(step[1:]) if step[0] == "i" else step[1:] for step in path.split("\x1f")]
        inner = found
        for key in stem:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return found
