"""One engine under one load: records at a steady rate at random peers, and what became of them.

Time is virtual: what passes is what the protocol waits for, links, blocks and gossip. Computing takes no time; what it
would cost is counted (hashes, signatures, checked signatures). Mining is a Poisson process whose tries are counted and
not made; with every block that is found a record comes to its finder, so that the block rate is the load and no block
is empty. Signatures are made and checked for real, each once a process; every peer that would check one counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from random import Random
from statistics import fmean, median, quantiles
from typing import Literal

from hubless.errors import LedgerError, NetworkError
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.record import write
from hubless.ledger.store import OFFERS, Engine
from hubless.ledger.trials.town import Town, Tuning, engine, halves
from hubless.net.transports.clock import run_sim

Upset = Literal["none", "crash", "partition"]
BODY = 128  # bytes of a record's body


@dataclass(frozen=True)
class Costs:
    """Of all peers, for each record that was handed in: bytes sent, signatures made and checked, hashes."""

    bytes: float
    signatures: float
    verified: float
    hashes: float


@dataclass(frozen=True)
class Outcome:
    """What became of the records of one run.

    rate:      records a second that their own peer held for final within the time of the run
    p50, p95:  seconds from handing in to final, of those that were final; NaN when none was
    settling:  median seconds from a block to the finality of its record; NaN where there are no blocks
    share:     of the records handed in at peers that did not crash, those that were final
    late:      the same of those handed in after the upset had begun
    stale:     share of the blocks that are not on the chain
    stored:    mean bytes a peer keeps
    undone:    records that a peer held for final and then not
    forked:    1 when two peers disagree about the order of final records, else 0
    """

    rate: float
    p50: float
    p95: float
    settling: float
    share: float
    late: float
    stale: float
    stored: float
    undone: int
    forked: int
    costs: Costs


@dataclass(frozen=True)
class Handed:
    """A record that was handed in: at which peer, when, under which id (empty when it was refused)."""

    peer: int
    time: float
    id: bytes


def run(
    kind: str,
    *,
    peers: int,
    latency: float,
    rate: float,
    seconds: float,
    seed: int,
    upset: Upset = "none",
    crashed: float = 0.3,
    apart: float = 30.0,
    tuning: Tuning = Tuning(),  # noqa: B008 (frozen)
) -> Outcome:
    """Play one engine.

    latency: seconds, mean, one way;  rate: records a second
    upset:   at a third of the time: a share ``crashed`` of the peers, or two halves ``apart`` for so many seconds
    """
    return run_sim(_play(Load(kind, peers, latency, rate, seconds, seed, upset, crashed, apart, tuning)))


@dataclass(frozen=True)
class Load:
    """The arguments of ``run``."""

    kind: str
    peers: int
    latency: float
    rate: float
    seconds: float
    seed: int
    upset: Upset
    crashed: float
    apart: float
    tuning: Tuning


async def _play(load: Load) -> Outcome:
    make = engine(load.kind, load.latency, load.rate, replace(load.tuning, driven=True))
    async with Town(load.peers, load.latency, load.seed, make) as town:
        for one in town.engines:
            await one.start()
        draw, handed = Random(f"load/{load.seed}"), list[Handed]()
        dead = draw.sample(range(load.peers), round(load.crashed * load.peers)) if load.upset == "crash" else []
        live = [i for i in range(load.peers) if i not in dead]
        clock, choice = town.nets[live[0]], list(range(load.peers))
        start, before = clock.now(), sum(net.stats["bytes"] for net in town.nets)
        upset_at = start + load.seconds / 3
        heal_at = upset_at + load.apart

        async def hand_in(peer: int, body: bytes, found: bool) -> None:
            record = write(town.signers[peer], "note", body, clock.now())
            try:
                id = (await town.engines[peer].append(record)).id
            except (NetworkError, LedgerError):
                id = b""
            handed.append(Handed(peer, record.time, id))
            own = town.engines[peer]
            if found and isinstance(own, HashChain):
                own.seal(clock.now())

        upset = load.upset
        for time in _times(load, draw):
            await clock.sleep(start + time - clock.now())
            if upset != "none" and clock.now() >= upset_at:
                upset, choice = "none", live
                _upset(town, load.upset, dead)
            if load.upset == "partition" and clock.now() >= heal_at:
                town.world.heal()
            peer = draw.randrange(load.peers)
            found = load.kind == "work" and peer in choice  # who has crashed finds no block
            peer = peer if peer in choice else draw.choice(choice)
            town.nets[peer].spawn(hand_in(peer, draw.randbytes(BODY), found), "load")
        await clock.sleep(start + load.seconds - clock.now())
        sent = sum(net.stats["bytes"] for net in town.nets) - before
        count, kept = len(handed), [one for one in handed if one.peer in live]
        costs = _costs(town.engines, count, sent, load.kind)
        return _outcome(town.engines, live, kept, load.seconds, upset_at, costs)


def _times(load: Load, draw: Random) -> list[float]:
    """When records come, in seconds: one in each interval of 1/rate; by work, as blocks are found, a Poisson process.

    A Poisson process of which the number is known has its events anywhere, independently.
    """
    count = round(load.seconds * load.rate)
    if load.kind == "work":
        return sorted(load.seconds * draw.random() for _ in range(count))
    return [(k + draw.random()) / load.rate for k in range(count)]


def _upset(town: Town[Engine], upset: Upset, dead: Sequence[int]) -> None:
    if upset == "partition":
        town.world.partition(halves(town.ids))
    for i in dead:
        town.world.crash(town.ids[i])


def _costs(engines: Sequence[Engine], count: int, sent: int, kind: str) -> Costs:
    """The author's own signature is one of them where it is needed."""
    total = max(count, 1)
    signatures, verified, hashes = (
        sum(one.work[name] for one in engines) / total for name in ("signatures", "verified", "hashes")
    )
    return Costs(sent / total, signatures + (kind != "central"), verified, hashes)


def _outcome(
    engines: Sequence[Engine],
    live: Sequence[int],
    handed: Sequence[Handed],
    seconds: float,
    upset_at: float,
    costs: Costs,
) -> Outcome:
    waits, depths = [], []
    for one in handed:
        own = engines[one.peer]
        if one.id in own.settled:
            waits.append(own.settled[one.id] - one.time)
            if isinstance(own, HashChain) and (node := own.where.get(one.id)) is not None and node.header is not None:
                depths.append(own.settled[one.id] - node.header.time)
    late = [one for one in handed if one.time >= upset_at]
    cuts = quantiles(waits, n=20, method="inclusive") if len(waits) > 1 else [nan] * 19
    running = [engines[i] for i in live]
    chains = [one for one in running if isinstance(one, HashChain)]
    ordered = {"order", "finality"} <= OFFERS[running[0].kind]
    return Outcome(
        rate=len(waits) / seconds,
        p50=cuts[9],
        p95=cuts[18],
        settling=median(depths) if depths else nan,
        share=len(waits) / max(len(handed), 1),
        late=sum(one.id in engines[one.peer].settled for one in late) / max(len(late), 1),
        stale=fmean(one.stale() for one in chains) if chains else 0.0,
        stored=fmean(one.stored() for one in running),
        undone=sum(one.work["undone"] for one in running),
        forked=int(ordered and not same_order(running)),
        costs=costs,
    )


def same_order(engines: Sequence[Engine]) -> bool:
    """Whether no two peers disagree about what is final: of two orders one is the beginning of the other."""
    orders = sorted((one.order() for one in engines), key=len)
    return all(order == orders[-1][: len(order)] for order in orders)
