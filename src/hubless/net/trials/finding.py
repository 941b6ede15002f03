"""What becomes of records when many of those who keep them fall silent."""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass, field, replace

from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import LOSSY, population
from hubless.run.stages import Findings

TTL = 86_400.0
STRIDE = 7  # between readers, so that a key's reader is not its publisher


@dataclass(frozen=True)
class Keys:
    """A trial: ``keys`` are put by ``peers`` in turn, a share ``killed`` of them falls silent, the others get them.

    replicas: peers that are asked to keep each record
    width:    of lookups; 0 follows the size of the network
    link:     of any two peers
    """

    peers: int = 200
    keys: int = 300
    killed: float = 0.2
    replicas: int = 8
    width: int = 0
    link: Link = LOSSY

    def findings(self, seed: int) -> Findings:
        """The trial, and the same with one replica."""
        arms = {f"{self.replicas} replicas": find(self, seed), "1 replica": find(replace(self, replicas=1), seed)}
        many, one = arms.values()
        rounds = range(max(max(arm.rounds) for arm in arms.values()) + 1)
        return Findings(
            metrics={
                "found_share": many.found,
                "found_share_one_replica": one.found,
                "lookup_rounds": statistics.fmean(many.rounds),
                "lookup_rounds_most": max(many.rounds),
                "lookup_steps": statistics.fmean(many.asked),
                "lookup_seconds": statistics.median(many.seconds),
                "replicas_kept": many.kept,
                "contacts": many.table,
            },
            figures=[
                {
                    "type": "bars", "title": f"Rounds of a lookup after {self.killed:.0%} of the peers fell silent",
                    "labels": [str(n) for n in rounds], "ylabel": "lookups",
                    "groups": {name: [arm.rounds.count(n) for n in rounds] for name, arm in arms.items()},
                }
            ],
        )  # fmt: skip


@dataclass
class Gets:
    """What became of it.

    found:   share of the keys whose record was read as it was put
    rounds:  of each lookup, answers that had to be awaited one after another; 0 where the reader had the record
    asked:   steps of each lookup
    seconds: virtual, of each lookup
    kept:    peers that took a record, on average
    table:   contacts of a peer, on average
    """

    found: float = 0.0
    rounds: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kept: float = 0.0
    table: float = 0.0


def find(trial: Keys, seed: int) -> Gets:
    """Run it in a simulated world."""
    return run_sim(_find(trial, seed))


async def _find(trial: Keys, seed: int) -> Gets:
    world = SimWorld(seed, trial.link)
    draw, gets = random.Random(f"{seed}/keys"), Gets()
    async with population(world, trial.peers, width=trial.width or None) as peers:
        keys = [b"key %d" % i for i in range(trial.keys)]
        took = [
            await peers[i % len(peers)].put(key, b"value of " + key, TTL, replicas=trial.replicas)
            for i, key in enumerate(keys)
        ]
        gets.kept = sum(took) / len(took)
        gets.table = sum(len(net.dht.table) for net in peers) / len(peers)
        dead = dict.fromkeys(draw.sample(range(len(peers)), round(trial.killed * len(peers))))
        for i in dead:
            world.cut(peers[i].peer_id)
        alive = [net for i, net in enumerate(peers) if i not in dead]
        for i, key in enumerate(keys):
            net, began = alive[(STRIDE * i + 1) % len(alive)], peers[0].now()
            records = await net.get(key)
            gets.found += [record.value for record in records] == [b"value of " + key]
            gets.rounds.append(net.records.last.rounds)
            gets.asked.append(net.records.last.asked)
            gets.seconds.append(peers[0].now() - began)
    gets.found /= len(keys)
    return gets
