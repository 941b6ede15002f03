"""A hashgraph with faulty members: some silent from the start, some that tell two stories."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import msgspec

from hubless.ledger.hashgraph import EVENT, Gossip, Hashgraph
from hubless.ledger.record import write
from hubless.ledger.trials.load import BODY, same_order
from hubless.ledger.trials.town import Town, gossip_every
from hubless.ledger.virtual_voting import Event
from hubless.net.network import Network
from hubless.net.transports.sim import run_sim
from hubless.net.transports.transport import PeerId


class Forker(Hashgraph):
    """Makes two events where it should make one, every other time, and tells the second to one peer alone."""

    def _create(self, other: bytes) -> None:
        before = self.last
        super()._create(other)
        if self.net.rng.random() < 0.5:
            event = Event(self.net.peer_id, before, other, [], self.net.now() + 0.001)
            key = event.digest(self.hasher)
            event = msgspec.structs.replace(event, signature=self.net.identity.sign(EVENT, key))
            raw = msgspec.msgpack.encode(event)
            self.tell_one(self.net.rng.choice(self.others), "told", msgspec.msgpack.encode((key, [raw], [])))


@dataclass(frozen=True)
class Agreement:
    """What the honest members ended with.

    ordered: records that all of them have in order;  handed: records handed in at them
    rounds:  rounds that the slowest of them decided;  same: whether no two orders contradict each other
    forks:   creators of which an honest member knows a fork
    """

    ordered: int
    handed: int
    rounds: int
    same: bool
    forks: int


def run(*, peers: int, silent: int, forkers: int, latency: float, rate: float, seconds: float, seed: int) -> Agreement:
    """Play it. ``latency`` in seconds, ``rate`` in records a second at honest members."""
    return run_sim(_play(peers, silent, forkers, latency, rate, seconds, seed))


async def _play(
    peers: int, silent: int, forkers: int, latency: float, rate: float, seconds: float, seed: int
) -> Agreement:
    shared: list[Gossip] = []
    liars: list[PeerId] = []

    def make(net: Network, ids: list[PeerId]) -> Hashgraph:
        if not shared:
            shared.append(Gossip(ids))
            liars.extend(ids[silent : silent + forkers])
        kind = Forker if net.peer_id in liars else Hashgraph
        return kind(net, ids, every=gossip_every(latency), gossip=shared[0])

    async with Town(peers, latency, seed, make) as town:
        for i, one in enumerate(town.engines):
            if i < silent:
                town.world.cut(town.ids[i])
            else:
                await one.start()
        draw, clock = Random(f"faulty/{seed}"), town.nets[-1]
        start, honest = clock.now(), range(silent + forkers, peers)
        count = round(seconds * rate)
        for k in range(count):
            await clock.sleep(start + k / rate - clock.now())
            i = draw.choice(honest)
            await town.engines[i].append(write(town.signers[i], "note", draw.randbytes(BODY), clock.now()))
        await clock.sleep(start + seconds - clock.now())
        own = [town.engines[i] for i in honest]
        forks = max(bin(one.graph.forkers[one.graph.graph.index[one.last]]).count("1") for one in own)
        return Agreement(
            min(len(one.log) for one in own), count, min(one.poll.round for one in own), same_order(own), forks
        )
