"""Overlays: who trains in a round, and who sends to whom.

Plans are index tensors; a fixed graph's plan is made once. Peers that are dead are still planned for: faults are not
visible here, except to an overlay that asks by ``world.ping``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, log
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.plan import HAND, Book, Chatter, Exchange, Overlay, Plan, Train, World
from hubless.net.mixing import Mixing, Weights, mix, spectral_gap
from hubless.net.topologies import Edges, Topology
from hubless.parts import make

MOST = 10_000  # exchanges a round


class Roles(Protocol):
    """How the participants of a round share out the roles."""

    @property
    def names(self) -> tuple[str, ...]:
        """What peers may be asked to be."""

    def draw(self, t: int, peers: Tensor, seed: int) -> Mapping[str, Tensor]:
        """Peers of each role in round t."""


@dataclass(frozen=True)
class Everyone:
    """All participants train alike."""

    names: tuple[str, ...] = ("train",)

    def draw(self, t: int, peers: Tensor, seed: int) -> Mapping[str, Tensor]:
        """One role for all."""
        return {"train": peers}


def hash_order(members: list[int], t: int, seed: int) -> list[int]:
    """Members in the order of a hash of (id, round): the same at every peer that knows the same members."""
    ids = torch.tensor(members, dtype=torch.int64)
    rank = keys.fold(keys.fold(seed, "order", t), ids)
    assert isinstance(rank, Tensor)
    return ids[torch.argsort(rank, stable=True)].tolist()


def chosen(world: World, t: int, count: int) -> Tensor:
    """A random sample of members for round t, in id order; all of them when ``count`` is 0."""
    members = torch.tensor(world.members, dtype=torch.int64)
    if not count or count >= len(members):
        return members
    drawn = keys.uniform(keys.fold(world.seed, "sample", t), (len(members),))
    return members[torch.argsort(drawn, stable=True)[:count]].sort().values


def _weights(rule: str, world: World, peers: Tensor) -> Tensor:
    return world.sizes[peers].to(torch.float64) if rule == "size" else torch.ones(len(peers), dtype=torch.float64)


@dataclass(frozen=True)
class Alone(Overlay):
    """Everyone trains and nobody sends."""

    phases = ()

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """One training step."""
        return (Train({"train": torch.tensor(world.members, dtype=torch.int64)}),)


@dataclass(frozen=True)
class Gossip(Overlay):
    """Everyone trains, then exchanges with its neighbours ``steps`` times.

    topology:  who may talk to whom, or its name
    steps:     exchanges a round (Q); each costs a message per link
    weights:   rule of the mixing matrix: metropolis, uniform, data-size
    tolerance: share of the disagreement that a round may leave, in place of ``steps``: as many exchanges as the
               spectral gap asks for, ``log(tolerance) / log(1 - gap)``, which every peer can work out alone
    """

    topology: Topology | str
    steps: int = 1
    weights: Any = "metropolis"
    tolerance: float = 0.0
    _plans: dict[tuple[Any, ...], Exchange] = field(default_factory=dict, compare=False, repr=False)
    _counts: dict[tuple[Any, ...], int] = field(default_factory=dict, compare=False, repr=False)

    phases = ("gossip",)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"gossip_steps = {self.steps}: must be at least 1")
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"tolerance = {self.tolerance:g}: must be in [0, 1); 0 takes gossip_steps")

    @cached_property
    def graph(self) -> Topology:
        """The topology, made from its name if it was given as one."""
        found: Topology = make("topology", self.topology)
        return found

    def check(self, n: int, seed: int = 0) -> None:
        """The topology must work with n peers, and the weights with it."""
        self.graph.check(n, seed=seed)
        rule: Weights = make("weights", self.weights)
        if type(rule).check is not Weights.check:
            rule.check(self.graph.edges(n, 0, seed))

    def edges(self, n: int, seed: int) -> Edges:
        """The first round's graph."""
        return self.graph.edges(n, 0, seed)

    def mixing(self, n: int, seed: int, sizes: Tensor, at: int = 0) -> Mixing:
        """The mixing matrix of the exchange number ``at``, counted from 0 over all rounds."""
        rule = make("weights", self.weights)
        return mix(self.graph.edges(n, at, seed), rule, sizes=sizes.numpy())

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Train, then the exchanges; each uses the topology of its own moment."""
        everyone = torch.tensor(world.members, dtype=torch.int64)
        count = self.exchanges(world)
        return (Train({"train": everyone}), *(self._exchange((t - 1) * count + q, world) for q in range(count)))

    def exchanges(self, world: World) -> int:
        """How many a round. Raises ConfigError when no number of them would do."""
        if not self.tolerance:
            return self.steps
        key = (world.n, world.seed, world.sizes.numpy().tobytes())
        if key not in self._counts:
            rule = make("weights", self.weights)
            gap = spectral_gap(self.graph, world.n, rule, sizes=world.sizes.numpy(), seed=world.seed)
            most = log(self.tolerance) / log(1 - gap) if 0 < gap < 1 else 1 - gap
            if gap <= 0 or most > MOST:
                raise ConfigError(
                    f"tolerance = {self.tolerance:g}: the spectral gap of {self.topology} is {gap:.2g}, so that more"
                    f" than {MOST} exchanges would be needed"
                )
            self._counts[key] = max(1, ceil(most))
        return self._counts[key]

    def _exchange(self, at: int, world: World) -> Exchange:
        period = self.graph.period(world.n)
        members = () if len(world.members) == world.n else tuple(world.members)
        key = (at % period if period else at, world.n, world.seed, members, world.sizes.numpy().tobytes())
        if key not in self._plans:
            if not period:
                self._plans.clear()
            mixing = self.mixing(world.n, world.seed, world.sizes, at)
            src, dst = torch.from_numpy(mixing.src), torch.from_numpy(mixing.dst)
            weight = torch.from_numpy(mixing.weight)
            if len(world.members) < world.n:
                member = torch.zeros(world.n, dtype=torch.bool)
                member[world.members] = True
                keep = member[src] & member[dst]
                src, dst, weight = src[keep], dst[keep], weight[keep]
            self._plans[key] = Exchange("gossip", src, dst, weight)
        return self._plans[key]


@dataclass(frozen=True)
class Star(Overlay):
    """One peer, the aggregator, sends the model out and collects the work of this round's participants.

    sample: participants a round; 0 means all
    weigh:  ``size`` weighs by training samples, ``one`` equally
    roles:  how participants share out roles
    """

    sample: int = 0
    weigh: Literal["size", "one"] = "size"
    roles_of: Roles = field(default_factory=Everyone)

    phases = ("down", "up")
    shared = True

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """The roles it hands out."""
        return self.roles_of.names

    def check(self, n: int, seed: int = 0) -> None:
        """No more participants than peers."""
        if self.sample > n:
            raise ConfigError(f"participants = {self.sample}: there are only {n} peers")

    def init(self, world: World) -> Book:
        """The aggregator is peer 0, for good."""
        return {"aggregator": 0}

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Down, train, up."""
        peers = chosen(world, t, self.sample)
        hub = torch.full_like(peers, book["aggregator"])
        return (
            Exchange("down", hub, peers, torch.ones(len(peers), dtype=torch.float64)),
            Train(self.roles_of.draw(t, peers, world.seed), after="down"),
            Exchange("up", peers, hub, _weights(self.weigh, world, peers), collect=True),
        )


@dataclass(frozen=True)
class Rotating(Star):
    """A star whose centre moves every round: the role and its state are handed to the next peers in hash order.

    copies: how many peers receive the role's state, so that one of them may die
    """

    copies: int = 2

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise ConfigError(f"copies = {self.copies}: must be at least 1")

    def init(self, world: World) -> Book:
        """The first aggregator is peer 0, as in a star; everyone starts with the same model."""
        return {"aggregator": 0, "holders": world.members[:1] + world.members[1 : self.copies]}

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """Down, train, up, hand; the first holder that answers has the role."""
        alive = [peer for peer in book["holders"] if world.ping(peer)]
        book["aggregator"] = (alive or book["holders"])[0]
        following = [peer for peer in hash_order(world.members, t + 1, world.seed) if world.ping(peer)]
        heirs = torch.tensor(following[: self.copies] or book["holders"], dtype=torch.int64)
        book["heirs"] = heirs.tolist()
        hub = torch.full_like(heirs, book["aggregator"])
        ordered = torch.argsort(heirs)
        weight = torch.ones(len(heirs), dtype=torch.float64)
        return (*super().plan(t, world, book), Exchange(HAND, hub, heirs[ordered], weight))

    def handed(self, holders: list[int], book: Book) -> None:
        """Those whom the role reached hold it now, in the order in which they would take it up."""
        book["holders"] = [peer for peer in book["heirs"] if peer in holders] or holders or book["holders"]


@dataclass(frozen=True)
class Scheduled(Overlay):
    """Another overlay by the round.

    stages: pairs (first round, overlay), in order; the first begins at round 1
    """

    stages: tuple[tuple[int, Overlay], ...]

    def __post_init__(self) -> None:
        firsts = [first for first, _ in self.stages]
        if not firsts or firsts[0] != 1 or firsts != sorted(set(firsts)):
            raise ConfigError(f"overlay.stages: first rounds must rise from 1, not {firsts}")
        if any(overlay.shared for _, overlay in self.stages):
            raise ConfigError("overlay.stages: a star cannot be one of several stages; use Gossip('full')")

    @property
    def phases(self) -> tuple[str, ...]:  # type: ignore[override]
        """All exchanges of all stages."""
        return tuple(dict.fromkeys(phase for _, overlay in self.stages for phase in overlay.phases))

    @property
    def roles(self) -> tuple[str, ...]:  # type: ignore[override]
        """All roles of all stages."""
        return tuple(dict.fromkeys(role for _, overlay in self.stages for role in overlay.roles))

    @property
    def in_parts(self) -> bool:  # type: ignore[override]
        """Whether some stage plans exchanges in parts."""
        return any(overlay.in_parts for _, overlay in self.stages)

    def at(self, t: int) -> Overlay:
        """The overlay of round t."""
        return [overlay for first, overlay in self.stages if first <= t][-1]

    def check(self, n: int, seed: int = 0) -> None:
        """Every stage must work."""
        for _, overlay in self.stages:
            overlay.check(n, seed)

    def init(self, world: World) -> Book:
        """A book a stage."""
        return {str(first): overlay.init(world) for first, overlay in self.stages}

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """The present stage's plan."""
        return self.at(t).plan(t, world, book[self._now(t)])

    def _now(self, t: int) -> str:
        return str(max(first for first, _ in self.stages if first <= t))

    def chatter(self, t: int, book: Book) -> Chatter | None:
        """The present stage's."""
        return self.at(t).chatter(t, book[self._now(t)])

    def outcome(self, t: int, book: Book) -> list[int] | None:
        """The present stage's."""
        return self.at(t).outcome(t, book[self._now(t)])

    def edges(self, n: int, seed: int) -> Edges | None:
        """The first stage's graph, where it has one."""
        look: Callable[[int, int], Edges] | None = getattr(self.stages[0][1], "edges", None)
        return look(n, seed) if look else None


def aggregation(kind: str, sample: int = 0, **rest: Any) -> Star:
    """The overlay of a server-style method: ``star`` pins the aggregator to a peer, ``rotating`` hands it on."""
    if kind == "star":
        return Star(sample, **rest)
    if kind == "rotating":
        return Rotating(sample, **rest)
    raise ConfigError(f"aggregator = {kind!r}: must be 'star' or 'rotating'")
