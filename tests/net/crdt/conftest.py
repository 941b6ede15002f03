from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Limits
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim

PEERS = [Identity.derived(5, i) for i in range(8)]
MEMBERS = [identity.peer_id for identity in PEERS]


class Bench:
    """Networks in one simulated world, and a store on each."""

    def __init__(self, world, nets, stores):
        self.world, self.nets, self.stores = world, nets, stores

    async def sweep(self, times=1):
        for _ in range(times):
            for store in self.stores:
                for peer in self.nets:
                    if peer is not store.net:
                        await store.exchange(peer.peer_id)

    def equal(self):
        return len({store.canonical() for store in self.stores}) == 1


@pytest.fixture(scope="session")
def on_bench() -> Callable:
    """Run ``body(bench)`` with ``peers`` stores that exchange only when they are told to."""

    def run(body, peers=3, *, link=None, seed=0, limits=None, **options):
        async def main():
            world = SimWorld(seed, link or Link(latency=0.01))
            async with AsyncExitStack() as stack:
                nets = []
                for identity in PEERS[:peers]:
                    net = Network(SimTransport(world, identity.peer_id), identity, seed=seed, limits=limits or Limits())
                    nets.append(await stack.enter_async_context(net))
                make = options.pop("make", lambda net, **kept: CrdtStore(net, "doc", lambda: MEMBERS, **kept))
                stores = [make(net, **({"every": 0.0} | options)) for net in nets]
                try:
                    return await body(Bench(world, nets, stores))
                finally:
                    for store in stores:
                        store.close()

        return run_sim(main())

    return run
