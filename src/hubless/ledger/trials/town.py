"""Simulated peers of one ledger, each with its engine, on links of a given latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import inf
from typing import Generic, Self, TypeVar

from hubless.ledger.central import CentralDB
from hubless.ledger.dht_store import DhtStore
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.hashgraph import Gossip, Hashgraph
from hubless.ledger.sealing import Authority, Work
from hubless.ledger.signing import PeerKey
from hubless.ledger.store import Engine
from hubless.ledger.tangle import Tangle
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Timeouts
from hubless.net.transports.sim import Link, SimTransport, SimWorld
from hubless.net.transports.transport import PeerId

ENGINES = ("central", "work", "authority", "tangle", "dht", "hashgraph")
SPREAD = 0.5  # latencies of pairs lie within half of the mean on either side
Kept = TypeVar("Kept", bound=Engine)
Make = Callable[[Network, list[PeerId]], Kept]


class Town(Generic[Kept]):
    """Peers with identities that follow from the seed; ``async with`` starts and ends them.

    Waits are as long as the latency asks for. Frames do not get lost and links have no bandwidth: what is compared is
    what latency and rate do to each way of agreeing.
    """

    def __init__(self, peers: int, latency: float, seed: int, make: Make[Kept]) -> None:
        self.world = SimWorld(seed, Link(latency=((1 - SPREAD) * latency, (1 + SPREAD) * latency)))
        identities = [Identity.derived(seed, i) for i in range(peers)]
        self.ids = [identity.peer_id for identity in identities]
        self.signers = [PeerKey(identity) for identity in identities]
        trip = 2 * (1 + SPREAD) * latency
        waits = Timeouts(step=max(1.0, 1.5 * trip), again=max(2.0, 2 * trip), request=max(10.0, 2 * trip))
        self.nets = [
            Network(SimTransport(self.world, identity.peer_id), identity, seed=seed, timeouts=waits)
            for identity in identities
        ]
        self.engines = [make(net, self.ids) for net in self.nets]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for net in self.nets:
            await self._stack.enter_async_context(net)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for engine in self.engines:
            if isinstance(engine, CentralDB):
                engine.close()


@dataclass(frozen=True)
class Tuning:
    """Of the engines. suite: hash suite; bits, depth: of proof of work; alpha: of a tangle's walk, None for uniform
    tips; copies: of a DHT's record; driven: whether the load says when a block is found by work."""

    suite: str = "sha256"
    bits: int = 20
    depth: int = 6
    alpha: float | None = None
    copies: int = 8
    driven: bool = False


def engine(kind: str, latency: float, rate: float, tuning: Tuning = Tuning()) -> Make[Engine]:
    """How to make an engine for a latency (seconds, mean one way) and a load (records a second).

    One record a block, so that the block rate is the load. Blocks of authorities come as often as records do, but not
    before the last one has reached everybody; a peer of the hashgraph asks another every half second, or latency.
    """
    suite = tuning.suite
    if kind == "hashgraph":
        shared: list[Gossip] = []  # what follows from an event's bytes alone is worked out once for all peers

        def hashgraph(net: Network, ids: list[PeerId]) -> Engine:
            if not shared:
                shared.append(Gossip(ids))
            return Hashgraph(net, ids, suite=suite, every=gossip_every(latency), gossip=shared[0])

        return hashgraph
    makers: dict[str, Make[Engine]] = {
        "central": lambda net, ids: CentralDB(net, ids, ids[0]),
        "work": lambda net, ids: HashChain(
            net,
            ids,
            Work(inf if tuning.driven else 1 / rate, tuning.bits, tuning.depth),
            suite=suite,
            records_a_block=1,
        ),
        "authority": lambda net, ids: HashChain(
            net, ids, Authority.of(slot(latency, rate), ids), suite=suite, records_a_block=1
        ),
        "tangle": lambda net, ids: Tangle(net, ids, suite=suite, alpha=tuning.alpha, check=0.5),
        "dht": lambda net, ids: DhtStore(net, ids, suite=suite, replicas=tuning.copies),
    }
    return makers[kind]


def slot(latency: float, rate: float) -> float:
    """Seconds of an authority's slot: a record's, but longer than a block takes to the farthest peer."""
    return max(1 / rate, (1 + SPREAD) * latency + 0.05)


def gossip_every(latency: float) -> float:
    """Seconds between two tellings of a peer."""
    return max(0.5, latency)


def halves(ids: Sequence[PeerId]) -> list[list[PeerId]]:
    """Two halves."""
    return [list(ids[::2]), list(ids[1::2])]
