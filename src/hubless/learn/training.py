"""Local training: a chunk of peers at a time does its whole round while it is in cache, one thread a core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from hubless.errors import HublessError, PeerError
from hubless.learn import keys
from hubless.learn.batches import batches, steps_of
from hubless.learn.context import Batch, Context, State
from hubless.learn.kernels import Kernel, choose, chunk_size
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.slots import Local
from hubless.learn.workload import Shards

T = TypeVar("T")


class Workers:
    """Threads that run chunks side by side, each with one torch thread; results come in the order of the chunks.

    ``count`` of them are reckoned with when work is cut into chunks; ``limit`` may let fewer run.
    """

    def __init__(self, threads: int) -> None:
        self.count = threads or os.cpu_count() or 1
        self._running = self.count
        self._pool: ThreadPoolExecutor | None = None

    def map(self, work: Callable[[int], T], count: int) -> Iterator[T]:
        """``work(0), work(1), ...`` in order; at most two results a thread wait to be taken."""
        if self._running == 1 or count == 1:
            with _one_thread():
                yield from map(work, range(count))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._running, "hubless", lambda: torch.set_num_threads(1))
        waiting: list[Future[T]] = []
        try:
            for number in range(count):
                waiting.append(self._pool.submit(work, number))
                if len(waiting) > 2 * self._running:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()

    def limit(self, threads: int) -> None:
        """Let no more than so many run, before any has."""
        self._running = min(self.count, threads)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class _one_thread:  # noqa: N801
    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


@dataclass
class Trained:
    """What a chunk came back with.

    peers ``[C]``, rows before and after ``[C, D]``, state after ``[C, ...]``, mean training loss ``[C]``
    """

    peers: Tensor
    start: Tensor
    rows: Tensor
    state: State
    losses: Tensor

    @cached_property
    def finite(self) -> Tensor:
        """Which peers have finite rows and losses ``[C]``; asked first in the worker, while the rows are in cache."""
        return (torch.isfinite(self.rows.sum(1)) & torch.isfinite(self.losses)).cpu()

    def only(self, keep: Tensor) -> Trained:
        """The peers of a mask ``[C]``."""
        state = {name: value[keep] for name, value in self.state.items()}
        return Trained(self.peers[keep], self.start[keep], self.rows[keep], state, self.losses[keep])


@dataclass(frozen=True)
class Job:
    """One training step of the plan for peers of one cohort and one role."""

    model: Model
    local: Local
    role: str
    t: int
    k: int
    N: int
    seed: int
    shards: Shards
    kernel: str = "auto"
    memory: float = 512.0

    def samples(self, peers: Tensor) -> Tensor:
        """Samples that each peer works through in the round ``[n]``."""
        sizes = self.shards.sizes[peers]
        if self.local.epochs is not None:
            return (self.local.epochs * sizes).to(torch.float32)
        batch = torch.full_like(sizes, self.local.batch) if self.local.batch else sizes
        return (steps_of(self.local, sizes) * batch).to(torch.float32)

    def order(self, peers: Tensor) -> Tensor:
        """Peers by number of steps, then id, so that a chunk wastes little on padding."""
        steps = steps_of(self.local, self.shards.sizes[peers])
        return peers[torch.argsort(steps, stable=True)]

    def chunks(self, peers: Tensor, threads: int) -> list[Tensor]:
        """Peers in chunks that fit the cache and the memory bound."""
        if not len(peers):
            return []
        batch = self.local.batch or int(self.shards.sizes.max())
        size = chunk_size(self.model, self.shards.x[:1], batch, len(peers), threads, self.memory)
        if not self._alike:
            return list(torch.split(self.order(peers), size))
        peers = peers[torch.argsort(self.shards.sizes[peers], stable=True)]
        runs = torch.unique_consecutive(self.shards.sizes[peers], return_counts=True)[1].tolist()
        return [chunk for run in torch.split(peers, runs) for chunk in torch.split(run, size)]

    @property
    def _alike(self) -> bool:
        """Whether a chunk's peers must have equally many samples: padding would count in the statistics of a batch."""
        return self.model.mixes and (self.local.epochs is not None or not self.local.batch)

    def run(
        self, peers: Tensor, start: Tensor, state: State, data: dict[int, tuple[Tensor, Tensor]], out: Tensor | None
    ) -> Trained:
        """Train one chunk from rows ``start [C, D]``; ``data`` replaces the training set of some peers.

        A fused epoch writes the rows afterwards to ``out``, which may be ``start`` itself, or to fresh memory.

        Raises PeerError, with the first peer of the chunk and the round, for whatever fails inside.
        """
        try:
            return self._run(peers, start, state, data, out)
        except HublessError:
            raise
        except Exception as error:
            whom = f"peers {peers.tolist()}" if len(peers) > 1 else f"peer {int(peers[0])}"
            what = f"{type(error).__name__} while {whom} trained: {error}"
            raise PeerError(what, peer=int(peers[0]), round=self.t) from error

    def _run(
        self, peers: Tensor, start: Tensor, state: State, data: dict[int, tuple[Tensor, Tensor]], out: Tensor | None
    ) -> Trained:
        sizes = self.shards.sizes[peers]
        key = keys.fold(keys.fold(self.seed, "train", self.t, self.k), peers)
        assert isinstance(key, Tensor)
        feed = self._feed(peers, sizes, key, data)
        first = next(feed)
        session, place = Session(self._kernel(first, len(peers))), start.device
        everything = chain((first,), feed)
        if self.local.fusable:
            rows = torch.empty(start.shape, device=place) if out is None else out
            moved, losses = session.kernel.epoch(start, state, everything, self.local.rate(self.t), rows)
            return Trained(peers, start, rows, {**state, **moved}, losses)
        key = key.to(place)
        context = Context(
            t=self.t, N=self.N, model=self.model, slope=session, k=self.k, peer=peers.to(place), n=sizes.to(place),
            classes=self.shards.classes[peers].to(place), steps=steps_of(self.local, sizes).to(place),
            rate=self.local.rate(self.t), role=self.role,
            key=key, secret=keys.fold(key, "secret"), start=start,
        )  # fmt: skip
        return Trained(peers, start, *self._stepped(context, session.losses, start, state, everything))

    def _kernel(self, example: Batch, C: int) -> Kernel:
        odd = self.kernel == "auto" and self._alike and C == 1  # a trace for each size of batch would not pay
        return choose(self.model, C, example, plain=self.local.fusable, kind="loop" if odd else self.kernel)

    def _feed(
        self, peers: Tensor, sizes: Tensor, key: Tensor, data: dict[int, tuple[Tensor, Tensor]]
    ) -> Iterator[Batch]:
        first = self.shards.start[peers]
        other = [(at, data[peer]) for at, peer in enumerate(peers.tolist()) if peer in data]
        for place, count in batches(key, sizes, self.local):
            x, y = self.shards.pick(self.shards.flat[first[:, None] + place])
            for at, (own_x, own_y) in other:
                x[at], y[at] = own_x[place[at]], own_y[place[at]]
            yield Batch(x, y, None if count is None else count.to(x.device, torch.float32))

    def _stepped(
        self, context: Context, losses: list[Tensor], start: Tensor, state: State, feed: Iterator[Batch]
    ) -> tuple[Tensor, State, Tensor]:
        """Step by step: rows, state and mean training loss afterwards; ``losses`` is where the session puts them."""
        each = _mapped if self.local.vectorised else _looped
        rows, s = start, each(context, lambda w, s, _, ctx: self.local.begin(w, s, ctx), start, state, None)
        total = torch.zeros(len(start), device=start.device)
        number = torch.zeros_like(total)
        for step, batch in enumerate(feed):
            now = replace(context, key=keys.fold(context.key, step), secret=keys.fold(context.secret, step))
            losses.clear()
            new_rows, new_s = each(now, self.local.step, rows, s, batch)
            here = None if batch.weight is None else batch.weight.sum(1) > 0
            if here is not None and not bool(here.all()):
                new_rows = _where(here, new_rows, rows)
                new_s = {name: _where(here, value, s.get(name, value)) for name, value in new_s.items()}
            rows, s = new_rows, new_s
            if losses:
                calls = len(losses) * len(losses[0]) // len(start)
                loss = torch.cat(losses)[::calls] if each is _looped else losses[0]
                total += loss if here is None else torch.where(here, loss, 0)
                number += 1 if here is None else here
        rows, s = each(context, lambda w, s, _, ctx: self.local.end(w, s, ctx), rows, s, None)
        return rows, s, total / number.clamp_min(1)


PER_PEER = ("peer", "n", "classes", "steps", "key", "secret", "start")


def _mapped(context: Context, work: Callable[..., T], rows: Tensor, s: State, batch: Batch | None) -> T:
    """``work`` for all peers of a chunk at once, by ``torch.vmap``."""
    own: dict[str, Any] = {name: getattr(context, name) for name in PER_PEER}

    def one(w: Tensor, s: State, parts: tuple[Tensor, ...], own: dict[str, Any]) -> T:
        return work(w, s, Batch(*parts) if parts else None, replace(context, **own))

    parts = tuple(part for part in batch or () if part is not None)
    mapped: T = torch.vmap(one)(rows, s, parts, own)
    return mapped


def _looped(context: Context, work: Callable[..., Any], rows: Tensor, s: State, batch: Batch | None) -> Any:
    """``work`` for one peer after another, results stacked."""
    found = []
    for i in range(len(rows)):
        own = {name: getattr(context, name)[i] for name in PER_PEER}
        weight = None if batch is None or batch.weight is None else batch.weight[i]
        one = None if batch is None else Batch(batch.x[i], batch.y[i], weight)
        found.append(work(rows[i], {name: value[i] for name, value in s.items()}, one, replace(context, **own)))
    if isinstance(found[0], tuple):
        return torch.stack([w for w, _ in found]), _stack([s for _, s in found])
    return _stack(found)


def _stack(states: list[State]) -> State:
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _where(here: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(here.reshape(-1, *[1] * (new.dim() - 1)), new, old)
