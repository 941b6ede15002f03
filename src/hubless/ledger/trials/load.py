"""One engine under one load: records at a steady rate at random peers, and what became of them.

Time is virtual: what passes is what the protocol waits for, links, blocks and gossip. Computing takes no time; what it
would cost is counted (hashes, signatures, checked signatures). Mining is a Poisson process whose tries are counted and
not made. Signatures are made and checked for real, each once a process; every peer that would check one counts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, quantiles
from typing import Literal

from hubless.errors import LedgerError, NetworkError
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.record import write
from hubless.ledger.store import OFFERS, Engine
from hubless.ledger.trials.town import Town, apart, engine
from hubless.net.transports.clock import run_sim

Upset = Literal["none", "crash", "partition"]
BODY = 128  # bytes of a record's body
CRASHED = 0.3  # share of the peers
APART = 30.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What became of the records of one run.

    rate:      records a second that their own peer held for final within the time of the run
    p50, p95:  seconds from handing in to final, of those that were final; NaN when none was
    sealed:    median seconds from handing in to being in a block, of a chain's final records; NaN elsewhere
    share:     of the records handed in at peers that did not crash, those that were final
    late:      the same of those handed in after the upset had begun
    bytes, signatures, verified, hashes: a record, over all peers
    stale:     share of the blocks, or of the transactions, that count for nothing
    stored:    mean bytes a peer keeps
    undone:    records that a peer held for final and then not
    forked:    1 when two peers disagree about the order of final records, else 0
    """

    rate: float
    p50: float
    p95: float
    sealed: float
    share: float
    late: float
    bytes: float
    signatures: float
    verified: float
    hashes: float
    stale: float
    stored: float
    undone: int
    forked: int


@dataclass(frozen=True)
class Handed:
    """A record that was handed in: at which peer, when, under which id (empty when it was refused)."""

    peer: int
    time: float
    id: bytes


def run(
    kind: str, *, peers: int, latency: float, rate: float, seconds: float, seed: int, upset: Upset = "none"
) -> Outcome:
    """Play one engine. ``latency`` in seconds (mean, one way), ``rate`` in records a second; upset at a third."""
    return run_sim(_play(kind, peers, latency, rate, seconds, seed, upset))


async def _play(kind: str, peers: int, latency: float, rate: float, seconds: float, seed: int, upset: Upset) -> Outcome:
    async with Town(peers, latency, seed, engine(kind, latency, rate)) as town:
        for one in town.engines:
            await one.start()
        random, handed = Random(f"load/{seed}"), list[Handed]()
        crashed = sorted(random.sample(range(peers), round(CRASHED * peers))) if upset == "crash" else []
        clock, start = town.nets[0], town.nets[0].now()
        before = sum(net.stats["bytes"] for net in town.nets)
        watcher = next(i for i in range(peers) if i not in crashed)
        clock = town.nets[watcher]

        async def hand_in(peer: int, body: bytes) -> None:
            record = write(town.signers[peer], "note", body, clock.now())
            at = clock.now()
            try:
                handed.append(Handed(peer, at, (await town.engines[peer].append(record)).id))
            except (NetworkError, LedgerError):
                handed.append(Handed(peer, at, b""))

        upset_at = start + seconds / 3
        done = False
        for k in range(round(seconds * rate)):
            await clock.sleep(start + (k + random.random()) / rate - clock.now())
            if upset != "none" and not done and clock.now() >= upset_at:
                done = True
                _upset(town, upset, crashed)
            live = [i for i in range(peers) if not (done and i in crashed)]
            peer = random.choice(live)
            town.nets[peer].spawn(hand_in(peer, random.randbytes(BODY)), "load")
            if upset == "partition" and upset_at + APART <= clock.now():
                town.world.heal()
        await clock.sleep(start + seconds - clock.now())
        live_engines = [one for i, one in enumerate(town.engines) if i not in crashed]
        sent = sum(net.stats["bytes"] for net in town.nets) - before
        return _outcome(kind, town.engines, live_engines, [h for h in handed if h.peer not in crashed],
                        len(handed), seconds, upset_at, sent)  # fmt: skip


def _upset(town: Town[Engine], upset: Upset, crashed: Sequence[int]) -> None:
    if upset == "partition":
        town.world.partition(apart(town.ids))
    for i in crashed:
        town.world.crash(town.ids[i])


def _outcome(
    kind: str,
    engines: Sequence[Engine],
    live: Sequence[Engine],
    handed: Sequence[Handed],
    count: int,
    seconds: float,
    upset_at: float,
    sent: int,
) -> Outcome:
    waits, sealed = [], []
    for one in handed:
        own = engines[one.peer]
        if one.id in own.settled:
            waits.append(own.settled[one.id] - one.time)
            if isinstance(own, HashChain) and (node := own.where.get(one.id)) is not None and node.header is not None:
                sealed.append(node.header.time - one.time)
    late = [one for one in handed if one.time >= upset_at]
    cuts = quantiles(waits, n=20, method="inclusive") if len(waits) > 1 else [float("nan")] * 19
    chains = [one for one in live if isinstance(one, HashChain)]
    work = {name: sum(one.work[name] for one in engines) / max(count, 1) for name in
            ("signatures", "verified", "hashes")}  # fmt: skip
    total = max(len(handed), 1)
    stale = fmean(one.stale() for one in chains) if chains else 0.0
    return Outcome(
        rate=len(waits) / seconds,
        p50=cuts[9],
        p95=cuts[18],
        sealed=sorted(sealed)[len(sealed) // 2] if sealed else float("nan"),
        share=len(waits) / total,
        late=sum(one.id in engines[one.peer].settled for one in late) / max(len(late), 1),
        bytes=sent / max(count, 1),
        signatures=work["signatures"] + (kind != "central"),  # the author's own
        verified=work["verified"],
        hashes=work["hashes"],
        stale=stale,
        stored=fmean(one.stored() for one in engines),
        undone=sum(one.work["undone"] for one in engines),
        forked=int("finality" in OFFERS[live[0].kind] and "order" in OFFERS[live[0].kind] and not same_order(live)),
    )


def same_order(engines: Sequence[Engine]) -> bool:
    """Whether no two peers disagree about what is final: of two orders one is the beginning of the other."""
    orders = sorted((one.order() for one in engines), key=len)
    return all(order == orders[-1][: len(order)] for order in orders)
