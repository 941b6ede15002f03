"""Peers of a simulated world, started, in one DHT, and closed again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.nat import NatType
from hubless.net.transports.sim import Link, SimTransport, SimWorld

LOSSY = Link(loss=0.01)


@asynccontextmanager
async def population(
    world: SimWorld, count: int, *, nats: Sequence[NatType] = (), width: int | None = None, joined: bool = True
) -> AsyncIterator[list[Network]]:
    """``count`` peers; with ``joined`` each enters the DHT through one that is there already.

    nats:  of the first peers; the others are open
    width: of their lookups; None follows the size
    """
    draw = random.Random(f"{world.seed}/population")
    async with AsyncExitStack() as stack:
        peers: list[Network] = []
        for i in range(count):
            identity = Identity.derived(world.seed, i)
            transport = SimTransport(world, identity.peer_id, nats[i] if i < len(nats) else "open")
            net = Network(transport, identity, seed=world.seed, timeouts=world.timeouts, limits=world.limits)
            await stack.enter_async_context(net)
            if joined:
                net.dht.fixed = width
                await net.dht.join([draw.choice(peers).peer_id] if peers else [])
            peers.append(net)
        yield peers
