"""How many answers a lookup waits for, one after another, as the DHT grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from random import Random
from statistics import fmean

from hubless.ledger.dht_store import DhtStore
from hubless.ledger.record import write
from hubless.ledger.signing import PeerKey
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population
from hubless.run.stages import Findings

WIDTH = 8  # of a lookup, the same at every size, so that only the size differs


@dataclass(frozen=True)
class Lookups:
    """What reads of live records took: the share that was found, and rounds of lookups, mean and greatest."""

    found: float
    rounds: float
    most: int


@dataclass(frozen=True)
class Sizes:
    """A trial: ``keys`` records put and read in a DHT of each size."""

    sizes: Sequence[int]
    keys: int
    latency: float

    def findings(self, seed: int) -> Findings:
        """Rounds against the number of peers."""
        found = {n: run(peers=n, keys=self.keys, latency=self.latency, seed=seed) for n in self.sizes}
        metrics: dict[str, float] = {"keys_found_least": min(one.found for one in found.values())}
        for n, one in found.items():
            metrics |= {f"rounds_{n}": one.rounds, f"rounds_most_{n}": one.most}
        metrics["rounds_growth"] = found[max(self.sizes)].rounds - found[min(self.sizes)].rounds
        metrics["rounds_over_log"] = max(one.most / log2(n) for n, one in found.items())
        figure = {
            "type": "lines", "title": "Rounds of a lookup", "x": [log2(n) for n in self.sizes],
            "xlabel": "log2 of the number of peers", "ylabel": "rounds",
            "lines": {"mean": [one.rounds for one in found.values()], "most": [one.most for one in found.values()],
                      "log2 of the peers": [log2(n) for n in self.sizes]},
        }  # fmt: skip
        return Findings(metrics, figures=[figure])


def run(*, peers: int, keys: int, latency: float, seed: int) -> Lookups:
    """Put ``keys`` records at random peers and read each at another. ``latency`` in seconds."""
    return run_sim(_play(peers, keys, latency, seed))


async def _play(peers: int, keys: int, latency: float, seed: int) -> Lookups:
    world = SimWorld(seed, Link(latency=(0.5 * latency, 1.5 * latency)))
    async with population(world, peers, width=WIDTH) as nets:
        ids = [net.peer_id for net in nets]
        stores = [DhtStore(net, ids) for net in nets]
        draw, found = Random(f"lookups/{seed}"), 0
        for _ in range(keys):
            writer, reader = draw.sample(stores, 2)
            record = write(PeerKey(writer.net.identity), "note", draw.randbytes(64), writer.net.now())
            id = (await writer.append(record)).id
            found += await reader.get(id) == record
        rounds = [count for store in stores for count in store.rounds if count]  # 0: the reader keeps it itself
        return Lookups(found / keys, fmean(rounds) if rounds else 0.0, max(rounds, default=0))
