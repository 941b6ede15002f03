"""How many answers a lookup waits for, one after another, as the DHT grows."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from statistics import fmean

from hubless.ledger.dht_store import DhtStore
from hubless.ledger.record import write
from hubless.ledger.signing import PeerKey
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population

WIDTH = 8  # of a lookup, the same at every size, so that only the size differs


@dataclass(frozen=True)
class Lookups:
    """What reads of live records took: the share that was found, and rounds of lookups, mean and greatest."""

    found: float
    rounds: float
    most: int


def run(*, peers: int, keys: int, latency: float, seed: int) -> Lookups:
    """Put ``keys`` records at random peers and read each at another. ``latency`` in seconds."""
    return run_sim(_play(peers, keys, latency, seed))


async def _play(peers: int, keys: int, latency: float, seed: int) -> Lookups:
    world = SimWorld(seed, Link(latency=(0.5 * latency, 1.5 * latency)))
    async with population(world, peers, width=WIDTH) as nets:
        ids = [net.peer_id for net in nets]
        stores = [DhtStore(net, ids) for net in nets]
        random, found = Random(f"lookups/{seed}"), 0
        for _ in range(keys):
            writer, reader = random.sample(stores, 2)
            record = write(PeerKey(writer.net.identity), "note", random.randbytes(64), writer.net.now())
            id = (await writer.append(record)).id
            found += await reader.get(id) == record
        rounds = [count for store in stores for count in store.rounds if count]  # 0: the reader keeps it itself
        return Lookups(found / keys, fmean(rounds) if rounds else 0.0, max(rounds, default=0))
