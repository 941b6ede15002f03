"""Decentralised sampling (MoDeST, arXiv 2302.13837): any peer can compute who trains and who aggregates in a round.

Every peer keeps a view of the membership (``hubless.learn.membership``) that travels with the models. A hash of
(id, round) orders the peers of a view; the first that answer a ping are the sample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.membership import UNKNOWN, Membership, sample_order
from hubless.learn.plan import Book, Chatter, Exchange, Overlay, Plan, Train, World

PING = 120  # bytes of a ping, pong, acknowledgement or advertisement: key 32, signature 64, three numbers of 8
LATER = 1e-9  # weight of a second copy of a round's model: it counts only where the first was lost


@dataclass(frozen=True)
class Sampled(Overlay):
    """A small sample trains in each round; peers of the next sample average its work and start the next sample.

    sample:      peers that train (s)
    aggregators: how many of the next sample's first peers average (a)
    window:      rounds after which a peer that nobody heard of is no candidate (dk)
    timeout:     seconds to wait for a pong, or for a peer to take a model (dt)
    patience:    seconds after which an aggregator goes on with fewer models
    success:     share of the sample whose models an aggregator waits for (sf)
    quorum:      models that it needs to go on when its patience ends
    pings:       whether peers make sure that those they choose are alive
    """

    sample: int = 10
    aggregators: int = 1
    window: int = 50
    timeout: float = 5.0
    patience: float = 300.0
    success: float = 1.0
    quorum: int = 1
    pings: bool = True

    phases: ClassVar[tuple[str, ...]] = ("up", "down")

    def check(self, n: int, seed: int = 0) -> None:
        """Raise ConfigError when samples cannot be drawn from n peers."""
        if not 1 <= self.sample <= n:
            raise ConfigError(f"participants = {self.sample}: must be between 1 and the number of peers, {n}")
        if not 1 <= self.aggregators <= self.sample:
            raise ConfigError(f"aggregators = {self.aggregators}: must be between 1 and participants = {self.sample}")
        if not 1 <= self.needed <= self.sample:
            raise ConfigError(
                f"success = {self.success:g}: an aggregator would wait for {self.needed} of {self.sample} models; "
                f"it must be at most 1 and at least {1 / self.sample:g}"
            )
        if not 1 <= self.quorum <= self.sample:
            raise ConfigError(f"quorum = {self.quorum}: must be between 1 and participants = {self.sample}")
        if self.window < 1 or self.timeout < 0 or self.patience < 0:
            raise ConfigError("inactivity must be at least 1, timeout and patience must not be negative")

    @property
    def needed(self) -> int:
        """Models an aggregator waits for."""
        return math.floor(self.sample * self.success + 1e-9)

    def init(self, world: World) -> Book:
        """All who are here know each other, and those who come later know them."""
        here = [peer for peer in world.members if world.ping(peer)]
        known = torch.full((world.n,), UNKNOWN)
        known[here] = 0
        known = known.repeat(world.n, 1)
        first = sample_order(here, 1, world.seed)
        return {
            "active": known, "counter": known.clone(), "held": torch.zeros(world.n, dtype=torch.int64),
            "news": [], "sample": sorted(first[: self.sample]), "holders": first[: self.aggregators], "short": False,
        }  # fmt: skip

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, send up to the next round's aggregators, send their average down to the next sample."""
        talk = Talk(self, t, world, book)
        talk.announce()
        sample = torch.tensor(book["sample"], dtype=torch.int64)
        workers = [peer for peer in book["sample"] if talk.here(peer) and world.sizes[peer] > 0]
        asked = talk.find_all(workers, self.aggregators, certain=True)
        talk.send(asked)
        inboxes: dict[int, list[int]] = defaultdict(list)
        for worker in talk.order(workers):
            for to in filter(talk.here, asked[worker]):
                inboxes[to].append(worker)
        done = self._complete(inboxes, talk)
        for hub in done:
            for worker in inboxes[hub]:
                talk.tell(hub, worker)
        hubs = list(done) or [self._restart(talk)]
        chosen = talk.find_all(hubs, self.sample)
        talk.send(chosen)
        weight = {(w, hub): float(at < done.get(hub, 0)) for hub in inboxes for at, w in enumerate(inboxes[hub])}
        up = {(w, to): weight.get((w, to), 0.0) for w in workers for to in asked[w]}
        down = {(hub, to): LATER**rank for rank, hub in enumerate(hubs) for to in chosen[hub]}
        book["sample"] = sorted({to for peers in chosen.values() for to in peers if talk.here(to)})
        book["holders"] = hubs
        book["held"][[*hubs, *book["sample"]]] = t + 1
        talk.close(asked)
        steps = (Train({"train": sample}), _exchange("up", up, collect=True), _exchange("down", down))
        return tuple(step for step in steps if isinstance(step, Train) or len(step.src))

    def _complete(self, inboxes: Mapping[int, list[int]], talk: Talk) -> dict[int, int]:
        """Aggregators that average, the first to be ready in front, with the number of models each takes."""
        ready = [hub for hub in talk.order(inboxes) if len(inboxes[hub]) >= self.needed]
        if ready:
            return dict.fromkeys(ready, self.needed)
        talk.waited += self.patience
        late = [hub for hub in talk.order(inboxes) if len(inboxes[hub]) >= self.quorum]
        return {hub: len(inboxes[hub]) for hub in sorted(late, key=lambda hub: -len(inboxes[hub]))}

    def _restart(self, talk: Talk) -> int:
        """Nobody averages: the live peer with the newest model sends it out again, one that did not train before all.

        Ours: in the source the round would never end.
        """
        talk.events.append("no model of this round's sample could be averaged; the last average goes out again")
        held, sample = talk.book["held"], talk.book["sample"]
        live = [peer for peer in talk.order(talk.world.members) if talk.here(peer)]
        return min(live, key=lambda peer: (-int(held[peer]), peer in sample))

    def chatter(self, t: int, book: Book) -> Chatter | None:
        """Pings, pongs, acknowledgements, advertisements, and the views that travel with the models."""
        return Chatter(**book["chatter"])

    def outcome(self, t: int, book: Book) -> list[int] | None:
        """The aggregators."""
        holders: list[int] = book["holders"]
        return holders


class Talk:
    """What the peers say to each other in one round, besides models; all of a phase happens at the same time.

    The simulation looks at who is alive to know who acts; a peer learns it only from pongs and models. Small messages
    are not lost.
    """

    def __init__(self, overlay: Sampled, t: int, world: World, book: Book) -> None:
        self.overlay, self.t, self.world, self.book = overlay, t, world, book
        self.views = [Membership(a, c) for a, c in zip(book["active"], book["counter"], strict=True)]
        self.rank = {peer: at for at, peer in enumerate(sample_order(range(world.n), t + 1, world.seed))}
        self.members = set(world.members)
        self.sent = torch.zeros(world.n, dtype=torch.float64)
        self.messages = self.trips = self.pings = self.wasted = self.disagreed = 0
        self.waited = 0.0
        self.events: list[str] = []

    def here(self, peer: int) -> bool:
        """Whether a peer acts in this round."""
        return peer in self.members and self.world.ping(peer)

    def order(self, peers: Iterable[int]) -> list[int]:
        """Peers in the next round's hash order."""
        return sorted(peers, key=self.rank.__getitem__)

    def tell(self, src: int, dst: int) -> None:
        """Count one small message."""
        if src != dst:
            self.sent[src] += PING
            self.messages += 1

    def announce(self) -> None:
        """Leaves are applied when they are heard of, joins after the hearer's next model has gone out."""
        for peer in self.world.left:
            self._advertise(peer, self.t - 1, here=False)
        for peer in filter(self.here, self.world.joined):
            self._advertise(peer, self.t, here=True)

    def _advertise(self, peer: int, t: int, *, here: bool) -> None:
        counter = self.views[peer].change(peer, here=here)
        self.views[peer] = self.views[peer].learn(peer, t, counter)
        known = torch.nonzero(self.views[peer].counter >= 0).flatten()
        known = known[known != peer]
        order = keys.permutation(keys.fold(self.world.seed, "advertise", self.t, peer), len(known))
        for to in known[order[: 10 * self.overlay.sample]].tolist():
            self.tell(peer, to)
            if here:
                self.book["news"].append([to, peer, t, counter])
            elif self.here(to):
                self.views[to] = self.views[to].learn(peer, t, counter)

    def find_all(self, seekers: Sequence[int], count: int, *, certain: bool = False) -> dict[int, list[int]]:
        """For each seeker the peers that it will send to: ``count`` that answered pings; they search at the same time.

        Without pings it is the first of its order, dead or alive; a ``certain`` seeker then goes on down the list
        until ``count`` have taken its model.
        """
        candidates = {me: self._candidates(me) for me in seekers}
        found, waits = {}, [0]
        for me, order in candidates.items():
            if self.overlay.pings:
                found[me], missed = self._ping(me, order, count)
            else:
                live = [at for at, peer in enumerate(order) if self.here(peer)][:count]
                found[me] = order[: live[-1] + 1 if live else len(order)] if certain else order[:count]
                missed = sum(not self.here(peer) for peer in found[me]) if certain else 0
            waits.append(missed)
        self.trips += self.overlay.pings and bool(seekers)
        self.waited += max(waits) * self.overlay.timeout
        same = defaultdict(set)
        for me, order in candidates.items():
            same[tuple(order)].add(tuple(found[me]))
        self.disagreed += sum(len(answers) - 1 for answers in same.values())
        return found

    def _candidates(self, me: int) -> list[int]:
        known = self.views[me].candidates(self.t + 1, self.overlay.window).tolist()
        return self.order({*known, me})

    def _ping(self, me: int, order: list[int], count: int) -> tuple[list[int], int]:
        """The first ``count`` that answer, and how many waves of pings had one that did not."""
        found: list[int] = []
        asked = missed = 0
        while len(found) < count and asked < len(order):
            wave = order[asked : asked + count - len(found)]
            asked += len(wave)
            answers = [peer for peer in wave if self.here(peer)]
            for peer in wave:
                self.tell(me, peer)
                self.pings += peer != me
            for peer in answers:
                self.tell(peer, me)
                self.views[me] = self.views[me].learn(peer, self.t)
                self.views[peer] = self.views[peer].learn(me, self.t)
            self.wasted += len(wave) - len(answers)
            missed += len(answers) < len(wave)
            found += answers
        return found, missed

    def send(self, targets: Mapping[int, list[int]]) -> None:
        """The views that go with models, as they were before the first arrives; then each sender applies its news."""
        before = {src: self.views[src] for src in targets}
        for src, peers in targets.items():
            for dst in peers:
                if src == dst:
                    continue
                self.sent[src] += before[src].size
                if self.here(dst):
                    self.views[dst] = self.views[dst].merge(before[src]).learn(src, self.t)
                    self.views[src] = self.views[src].learn(dst, self.t)
        for to, peer, t, counter in self.book["news"]:
            if to in targets:
                self.views[to] = self.views[to].learn(peer, t, counter)
        self.book["news"] = [news for news in self.book["news"] if news[0] not in targets]

    def close(self, asked: Mapping[int, list[int]]) -> None:
        """Write everything to the book."""
        found = len(self.book["sample"])
        short = found < self.overlay.sample
        if short and not self.book["short"]:
            self.events.append(f"the next sample has {found} live peers, not {self.overlay.sample}; they go on alone")
        self.book["short"] = short
        self.book["active"] = torch.stack([view.active for view in self.views])
        self.book["counter"] = torch.stack([view.counter for view in self.views])
        metrics = {
            "pings": float(self.pings), "wasted_pings": float(self.wasted), "sampled": float(found),
            "aggregators": float(len({to for peers in asked.values() for to in peers})),
            "disagreements": float(self.disagreed),
        }  # fmt: skip
        self.book["chatter"] = {
            "sent": self.sent, "messages": self.messages, "trips": self.trips, "seconds": self.waited,
            "metrics": metrics, "events": tuple(self.events),
        }  # fmt: skip


def _exchange(name: str, edges: Mapping[tuple[int, int], float], *, collect: bool = False) -> Exchange:
    ordered = sorted(edges, key=lambda edge: (edge[1], edge[0]))
    src, dst = (torch.tensor([edge[end] for edge in ordered], dtype=torch.int64) for end in (0, 1))
    weight = torch.tensor([edges[edge] for edge in ordered], dtype=torch.float64)
    return Exchange(name, src, dst, weight, collect)
