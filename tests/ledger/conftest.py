"""Peers of a ledger on a simulated network."""

import contextlib

import pytest

from hubless.ledger.record import write
from hubless.ledger.signing import PeerKey
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim


class Town:
    """A world of peers with one engine each; ``make(net, members)`` makes it."""

    def __init__(self, n, make, *, latency=0.1, loss=0.0, seed=0):
        self.world = SimWorld(seed, Link(latency=(0.5 * latency, 1.5 * latency), loss=loss))
        self.keys = [Identity.derived(seed, i) for i in range(n)]
        self.nets = [Network(SimTransport(self.world, key.peer_id), key, seed=seed) for key in self.keys]
        self.ids = [key.peer_id for key in self.keys]
        self.engines = [make(net, self.ids) for net in self.nets]
        self.signers = [PeerKey(key) for key in self.keys]

    async def __aenter__(self):
        for net in self.nets:
            await net.start()
        for engine in self.engines:
            await engine.start()
        return self

    async def __aexit__(self, *_):
        for net, engine in zip(self.nets, self.engines, strict=True):
            await net.close()
            with contextlib.suppress(AttributeError):
                engine.close()

    def record(self, i, text, spends=b""):
        return write(self.signers[i], "note", text.encode(), self.nets[i].now(), spends)

    async def append(self, i, text, spends=b""):
        return (await self.engines[i].append(self.record(i, text, spends))).id

    async def sleep(self, seconds):
        await self.nets[0].sleep(seconds)

    def rejects(self):
        return {
            name: count
            for net in self.nets
            for name, count in net.stats.items()
            if name.startswith(("reject", "failed")) and count
        }


@pytest.fixture
def town():
    """Run a coroutine function that is given a running town."""

    def play(n, make, story, **world):
        async def main():
            async with Town(n, make, **world) as town:
                return await story(town)

        return run_sim(main())

    return play
