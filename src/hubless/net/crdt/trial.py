"""What a partition costs: replicas write apart, the network heals, and they are the same again; or not.

The same writes go to a CRDT store and to a baseline that most systems begin with: the whole document is one value, and
at an exchange the one that was written last overwrites the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hubless.errors import ConfigError
from hubless.net.crdt.overwritten import Overwritten
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim
from hubless.net.transports.transport import PeerId

Value = tuple[list[int], dict[str, int], int]  # the set, the map, the counter
KEYS = 40  # of the map
MOST = 5  # that one write counts
STEPS = 4  # looks at all replicas in a round
PATIENCE = 40  # rounds after which replicas that are not equal count as never equal


@dataclass(frozen=True)
class Write:
    """One planned write: seconds from the start, which peer, what, and a number in [0, 1) that says which."""

    time: float
    peer: int
    kind: str
    which: float
    number: int


@dataclass(frozen=True)
class Run:
    """What became of one system.

    rounds:  anti-entropy rounds from healing until all replicas were equal; ``inf`` when they never were
    curve:   (seconds since healing, how many different documents the replicas hold)
    wanted:  items that were added and that nobody removed; ``kept``: how many of them all replicas still have
    counted: what the counter should say, and ``counter`` what it says at each replica
    keys:    keys of the map that were set, and ``held`` how many of them all replicas have
    """

    rounds: float
    curve: list[tuple[float, int]]
    wanted: int
    kept: int
    counted: int
    counter: list[int]
    keys: int
    held: int


@dataclass(frozen=True)
class Outcome:
    """Both systems, and what only the store can say.

    equal:      whether all canonical documents are the same bytes at the end
    operations: how many were signed; ``fewest``: how many the replica with the fewest has at the end
    """

    store: Run
    baseline: Run
    equal: bool
    operations: int
    fewest: int

    @property
    def lost(self) -> int:
        """Operations, items and keys that some replica lacks."""
        store = self.store
        return self.operations - self.fewest + store.wanted - store.kept + store.keys - store.held

    @property
    def exact(self) -> bool:
        """Whether every replica counts what was counted."""
        return set(self.store.counter) == {self.store.counted}

    @property
    def overwritten(self) -> float:
        """Share of the concurrent additions that the baseline lost."""
        return 1 - self.baseline.kept / self.baseline.wanted


def trial(
    seed: int,
    *,
    peers: int = 30,
    sides: int = 3,
    apart: float = 60.0,
    writes: int = 300,
    every: float = 1.0,
    loss: float = 0.01,
) -> Outcome:
    """Let ``sides`` groups write ``writes`` times each while they are ``apart`` seconds, then heal.

    every: seconds between two exchanges of a replica: one round
    loss:  probability that a frame does not arrive

    Raises ConfigError for options that cannot be.
    """
    if peers < 2:
        raise ConfigError(f"peers = {peers}: must be at least 2")
    if not 1 <= sides <= peers:
        raise ConfigError(f"sides = {sides}: must be from 1 to peers = {peers}")
    for name, value in (("apart", apart), ("writes", writes), ("every", every)):
        if not value > 0:
            raise ConfigError(f"{name} = {value}: must be positive")
    plan = planned(seed, peers, sides, apart, writes)
    link = Link(latency=(0.02, 0.15), loss=loss)
    stores: list[_Store] = []

    def ours(net: Network, members: Sequence[PeerId]) -> _Store:
        stores.append(_Store(net, members, every))
        return stores[-1]

    store = run_sim(_run(seed, plan, peers, sides, apart, every, link, ours))
    baseline = run_sim(_run(seed, plan, peers, sides, apart, every, link, partial(Overwritten, every=every)))
    lengths = [sum(replica.store.lengths().values()) for replica in stores]
    return Outcome(
        store=store,
        baseline=baseline,
        equal=len({replica.store.canonical() for replica in stores}) == 1,
        operations=sum(replica.signed for replica in stores),
        fewest=min(lengths),
    )


def planned(seed: int, peers: int, sides: int, apart: float, writes: int) -> list[Write]:
    """Writes in order of time, ``writes`` a side, spread evenly: additions, removals, keys and counts."""
    rng = random.Random(f"{seed}/writes")
    plan = []
    for i in range(writes):
        for side in range(sides):
            peer = rng.choice(range(side, peers, sides))
            kind = rng.choices(("add", "remove", "set", "incr"), (4, 1, 3, 3))[0]
            plan.append(Write((i + rng.random()) * apart / writes, peer, kind, rng.random(), i * sides + side))
    return sorted(plan, key=lambda write: (write.time, write.number))


class _Store:
    """A CRDT store, and how many operations it was made to sign."""

    def __init__(self, net: Network, members: Sequence[PeerId], every: float) -> None:
        self.store = CrdtStore(net, "trial", lambda: members, every=every)
        self.digest = self.store.digest
        self.signed = 0

    def add(self, item: int) -> None:
        self.signed += 1
        self.store.add("items", item)

    def remove(self, item: int) -> None:
        self.signed += 1
        self.store.remove("items", item)

    def set(self, key: str, value: int) -> None:
        self.signed += 1
        self.store.set("map", key, value)

    def incr(self, n: int) -> None:
        self.signed += 1
        self.store.incr("count", n)

    def value(self) -> Value:
        items, values, count = (self.store.value(name) for name in ("items", "map", "count"))
        return items or [], values or {}, count or 0


class _Tally:
    """What was written, so that one knows what should be there."""

    def __init__(self) -> None:
        self.added: dict[int, None] = {}
        self.removed: dict[int, None] = {}
        self.keys: dict[str, None] = {}
        self.counted = 0

    def write(self, write: Write, replica: _Store | Overwritten) -> None:
        """Let a replica write what was planned; where there is nothing to remove it adds."""
        items = replica.value()[0] if write.kind == "remove" else []
        if items:
            item = items[int(write.which * len(items))]
            replica.remove(item)
            self.removed[item] = None
        elif write.kind in ("add", "remove"):
            replica.add(write.number)
            self.added[write.number] = None
        elif write.kind == "set":
            key = f"key {int(write.which * KEYS)}"
            replica.set(key, write.number)
            self.keys[key] = None
        else:
            n = 1 + int(write.which * MOST)
            replica.incr(n)
            self.counted += n

    def compare(self, values: list[Value], rounds: float, curve: list[tuple[float, int]]) -> Run:
        """What is still there everywhere."""
        items = [dict.fromkeys(value[0]) for value in values]
        wanted = [item for item in self.added if item not in self.removed]
        return Run(
            rounds=rounds,
            curve=curve,
            wanted=len(wanted),
            kept=sum(all(item in some for some in items) for item in wanted),
            counted=self.counted,
            counter=[value[2] for value in values],
            keys=len(self.keys),
            held=sum(all(key in value[1] for value in values) for key in self.keys),
        )


async def _run(
    seed: int,
    plan: list[Write],
    peers: int,
    sides: int,
    apart: float,
    every: float,
    link: Link,
    make: Callable[[Network, Sequence[PeerId]], _Store | Overwritten],
) -> Run:
    """The plan on one system, in a world of its own."""
    world = SimWorld(seed, link)
    identities = [Identity.derived(seed, i) for i in range(peers)]
    members = [identity.peer_id for identity in identities]
    networks = [await Network(SimTransport(world, i.peer_id), i, seed=seed).start() for i in identities]
    world.partition([members[side::sides] for side in range(sides)])
    replicas = [make(net, members) for net in networks]
    tally, clock = _Tally(), networks[0]
    start = clock.now()
    for write in plan:
        await clock.sleep(max(0.0, start + write.time - clock.now()))
        tally.write(write, replicas[write.peer])
    await clock.sleep(max(0.0, start + apart - clock.now()))
    world.heal()
    rounds, curve = await _watch(clock, replicas, every)
    for net in networks:
        await net.close()
    return tally.compare([replica.value() for replica in replicas], rounds, curve)


async def _watch(
    clock: Network, replicas: Sequence[_Store | Overwritten], every: float
) -> tuple[float, list[tuple[float, int]]]:
    """Rounds until all replicas hold the same, and how many different documents there were until then."""
    curve = []
    for step in range(PATIENCE * STEPS + 1):
        different = len({replica.digest() for replica in replicas})
        curve.append((step * every / STEPS, different))
        if different == 1:
            return step / STEPS, curve
        await clock.sleep(every / STEPS)
    return float("inf"), curve
