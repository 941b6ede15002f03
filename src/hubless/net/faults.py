"""Faults among peers: who is alive, who has data, who is slow, and which messages are lost, round by round."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hubless.errors import ConfigError
from hubless.net import words
from hubless.net.edges import Edges, Ids
from hubless.net.keyed import generator, uniform
from hubless.net.schedule import GONE, LOSING, PEER_KINDS, Event, parse

__all__ = ["Event", "Faults", "Weather", "parse"]

Mask = NDArray[np.bool_]
MANY = 500


@dataclass(frozen=True, eq=False)
class Weather:
    """What one round is like; all of it follows from the schedule, the seed and the round.

    t:       the round, from 1
    alive:   [n] who takes part
    data:    [n] who has its training data (also set for the dead)
    slow:    [n] how many times slower each peer computes, 1 for most
    crashed: ids of peers gone without a word in this round, there in the one before
    left:    ids of peers gone in this round, announced
    joined:  ids of peers here in this round, but not in the one before (back again, or new)
    """

    t: int
    alive: Mask
    data: Mask
    slow: NDArray[np.float64]
    crashed: Ids
    left: Ids
    joined: Ids
    _faults: Faults = field(repr=False)

    @property
    def lossy(self) -> bool:
        """Whether any message can be lost in this round."""
        return any(event.kind in LOSING and event.active(self.t) for event in self._faults.events)

    def lost(self, phase: str, src: ArrayLike, dst: ArrayLike, k: int = 0) -> Mask:
        """[E] which messages of an exchange are lost on their way, for any of three reasons: the link is down,
        it crosses a partition, or the message itself is dropped.

        ``phase`` is the exchange's name, ``k`` the index of the step in the round's plan. Follows from (seed, round,
        k, phase, src, dst) alone, whatever the order of the edges. What a peer keeps for itself is never lost; that
        the receiver is dead is not looked at.
        """
        return self._faults._lost(self.t, phase, np.asarray(src, np.int64), np.asarray(dst, np.int64), k)

    def describe(self) -> list[str]:
        """What starts or ends in this round, in plain words."""
        return self._faults.describe(self.t)


class Faults:
    """A schedule for ``n`` peers.

    edges:      of the topology, for the rules top-degree and betweenness and for a number of links; for one that
                changes, those of some round
    aggregator: who has the aggregator role in a round, for events that hit it; asked once an event, when its first
                round comes (it may call ``at`` for earlier rounds). By default peer 0, the centre of a star.

    Random choices of peers depend on the seed and the event's place in the schedule only. Crash, leave and join
    choose among the peers that no earlier event of the list, and none that names its peers, takes away at the
    same time.

    Raises ConfigError, naming ``where``, if an event names a peer that is not there, needs edges that are missing,
    takes more peers than are left, or leaves no peer or no data.
    """

    def __init__(
        self,
        events: Sequence[Event],
        n: int,
        seed: int = 0,
        edges: Edges | None = None,
        *,
        aggregator: Callable[[int], int] | None = None,
        where: str = "faults",
    ) -> None:
        self.events = tuple(events)
        self.n = n
        self.seed = seed
        self._edges = edges
        self._aggregator = aggregator
        self._where = where
        self._peers: dict[int, Ids] = {}
        for index, event in enumerate(self.events):  # those whose peers are known are taken before any is chosen
            if event.unit == "peers":
                self._peers[index] = self._named(event)
            elif event.unit == "aggregator" and aggregator is None:
                self._peers[index] = np.zeros(1, dtype=np.int64)
        for index, event in enumerate(self.events):
            if event.kind in PEER_KINDS and event.unit in ("count", "share"):
                self._peers[index] = self._choose(index, event)
        self._groups = {i: self._split(i, e) for i, e in enumerate(self.events) if e.kind == "partition"}
        self._limits = {i: self._limit(i, e) for i, e in enumerate(self.events) if e.kind == "link-loss"}
        self._refuse_empty()

    @staticmethod
    def of(
        text: str,
        *,
        n: int,
        seed: int = 0,
        edges: Edges | None = None,
        aggregator: Callable[[int], int] | None = None,
        where: str = "faults",
    ) -> Faults:
        """The faults that ``text`` describes; see ``schedule`` for its grammar."""
        return Faults(parse(text, where), n, seed, edges, aggregator=aggregator, where=where)

    def at(self, t: int) -> Weather:
        """The weather of round ``t``, from 1; of round 0 before the first, when only joiners are missing."""
        alive, before = self._alive(t), self._alive(t - 1)
        gone = before & ~alive
        announced = np.zeros(self.n, dtype=bool)
        data, slow = np.ones(self.n, dtype=bool), np.ones(self.n)
        for index, event in enumerate(self.events):
            if event.kind == "leave" and event.active(t):
                announced[self._hit(index)] = True
            elif event.kind == "data" and event.active(t):
                data[self._hit(index)] = False
            elif event.kind == "straggler" and event.active(t):
                slow[self._hit(index)] *= event.factor
        crashed, left, joined = (
            np.flatnonzero(mask) for mask in (gone & ~announced, gone & announced, alive & ~before)
        )
        return Weather(t, alive, data, slow, crashed, left, joined, self)

    def describe(self, t: int) -> list[str]:
        """What starts or ends in round ``t``, in plain words."""
        return [
            words.tell(event, t, self._hit(index).tolist() if event.kind in PEER_KINDS else [], self.n)
            for index, event in enumerate(self.events)
            if words.telling(event, t)
        ]

    def resolved(self) -> dict[str, list[int]]:
        """Whom each event hits, as far as that is known by now; for a checkpoint."""
        return {str(index): peers.tolist() for index, peers in self._peers.items()}

    def resolve(self, known: dict[str, list[int]]) -> None:
        """The inverse of ``resolved``."""
        self._peers = {int(index): np.array(peers, dtype=np.int64) for index, peers in known.items()}

    def _alive(self, t: int) -> Mask:
        alive = np.ones(self.n, dtype=bool)
        for index, event in enumerate(self.events):
            if event.kind in GONE and event.active(t):
                alive[self._hit(index)] = False
        return alive

    def _hit(self, index: int) -> Ids:
        """The peers of an event; an aggregator is looked up when its event first matters."""
        if index not in self._peers:
            assert self._aggregator is not None
            self._peers[index] = np.array([self._aggregator(self.events[index].first)], dtype=np.int64)
        return self._peers[index]

    def _named(self, event: Event) -> Ids:
        if outside := [peer for peer in event.peers if peer >= self.n]:
            raise ConfigError(
                f"{self._where}: {event.text!r}: no peer {outside[0]}; the {self.n} peers are 0 to {self.n - 1}"
            )
        return np.array(sorted(event.peers), dtype=np.int64)

    def _choose(self, index: int, event: Event) -> Ids:
        place = f"{self._where}: {event.text!r}"
        count = math.floor(event.amount * self.n + 0.5) if event.unit == "share" else int(event.amount)
        free = np.ones(self.n, dtype=bool)
        if event.kind in GONE:
            for other, peers in self._peers.items():
                if self.events[other].kind in GONE and event.overlaps(self.events[other]):
                    free[peers] = False
        if count > free.sum():
            raise ConfigError(f"{place}: takes {count} peers, but only {free.sum()} of {self.n} are left to take")
        order = self._order(index, event, place)
        return np.sort(order[free[order]][:count])

    def _order(self, index: int, event: Event, place: str) -> Ids:
        """All peers, those to be hit first in front; ties in random order."""
        rng = generator("fault", self.seed, index)
        order = rng.permutation(self.n)
        if event.rule == "random":
            return order
        if self._edges is None:
            raise ConfigError(f"{place}: the rule {event.rule!r} needs a topology, and this overlay has none")
        if event.rule == "top-degree":
            rank = self._edges.degree.astype(np.float64)
        else:
            import networkx

            pivots = MANY if self.n > MANY else None  # exact for few peers, estimated from pivots for many
            central = networkx.betweenness_centrality(self._edges.graph(), k=pivots, seed=int(rng.integers(2**31)))
            rank = np.array([central[peer] for peer in range(self.n)])
        return order[np.argsort(-rank[order], kind="stable")]

    def _split(self, index: int, event: Event) -> Ids:
        if event.amount > self.n:
            raise ConfigError(f"{self._where}: {event.text!r}: {self.n} peers make no {event.amount:.0f} groups")
        groups = np.empty(self.n, dtype=np.int64)
        groups[generator("fault", self.seed, index).permutation(self.n)] = np.arange(self.n) % int(event.amount)
        return groups

    def _limit(self, index: int, event: Event) -> float:
        """Links whose number falls below it are down: exactly the share of known links, else each with that chance."""
        if self._edges is None or not len(self._edges):
            if event.unit == "count":
                raise ConfigError(
                    f"{self._where}: {event.text!r}: a number of links needs a topology; use a percentage"
                )
            return event.amount
        numbers = np.unique(self._link(index, self._edges.src, self._edges.dst))
        count = math.floor(event.amount * len(numbers) + 0.5) if event.unit == "share" else int(event.amount)
        if count > len(numbers):
            raise ConfigError(f"{self._where}: {event.text!r}: there are only {len(numbers)} links")
        return 1.0 if count == len(numbers) else float(numbers[count])

    def _link(self, index: int, src: Ids, dst: Ids) -> NDArray[np.float64]:
        """[E] a number in [0, 1) for each link, the same in both directions."""
        return uniform("link", self.seed, index, np.minimum(src, dst), np.maximum(src, dst))

    def _lost(self, t: int, phase: str, src: Ids, dst: Ids, k: int) -> Mask:
        lost: Mask = np.zeros(len(src), dtype=bool)
        kept = 1.0
        for index, event in enumerate(self.events):
            if not event.active(t):
                continue
            if event.kind == "partition":
                lost |= self._groups[index][src] != self._groups[index][dst]
            elif event.kind == "link-loss":
                lost |= self._link(index, src, dst) < self._limits[index]
            elif event.kind == "loss":
                kept *= 1 - event.amount
        if kept < 1 and len(src):
            lost |= uniform("loss", self.seed, t, k, zlib.crc32(phase.encode()), src, dst) >= kept
        lost &= src != dst
        return lost

    def _refuse_empty(self) -> None:
        """An aggregator that is not known yet counts as one peer more."""
        for t in sorted({e.first for e in self.events} | {1}):
            roles = [
                e for i, e in enumerate(self.events) if i not in self._peers and e.unit == "aggregator" and e.active(t)
            ]
            gone = np.zeros(self.n, dtype=bool)
            bare = np.zeros(self.n, dtype=bool)
            for index, event in enumerate(self.events):
                if event.active(t) and index in self._peers and event.kind in (*GONE, "data"):
                    (bare if event.kind == "data" else gone)[self._peers[index]] = True
            if gone.sum() + sum(e.kind in GONE for e in roles) >= self.n:
                raise ConfigError(f"{self._where}: no peer is left in round {t}")
            if bare.sum() + sum(e.kind == "data" for e in roles) >= self.n:
                raise ConfigError(f"{self._where}: no peer has data left in round {t}")
            if (gone | bare).all():
                raise ConfigError(f"{self._where}: nobody who is left in round {t} has data")
