"""Peers for a check: started, told of each other, and closed again whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hubless.errors import HublessError
from hubless.net.envelope import is_sealed
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.transport import PeerId, Transport

PATIENCE = 10.0  # seconds, of the transport's time, after which something that should have happened has not


@dataclass
class Peer:
    """One node of a check: its identity, its transport, and the network on it."""

    identity: Identity
    transport: Transport
    net: Network

    @property
    def id(self) -> PeerId:
        """Its peer id."""
        return self.net.peer_id

    def rejected(self) -> int:
        """How many frames it has dropped as unusable."""
        return sum(count for reason, count in self.net.stats.items() if reason.startswith("reject:"))


@dataclass
class Raw:
    """A hostile node: an identity and a bare transport, to say whatever bytes it likes."""

    identity: Identity
    transport: Transport
    heard: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> PeerId:
        """Its peer id."""
        return self.identity.peer_id

    def hear(self, _: PeerId | None, frame: bytes) -> None:
        """Remember a frame; of one that a relay brought, what is inside."""
        self.heard.append(self.identity.open(frame[1:]) if is_sealed(frame) else frame)

    async def say(self, peer: PeerId, frame: bytes) -> None:
        """Send bytes as they are."""
        await self.transport.ready(peer, len(frame))
        self.transport.send(peer, frame)


class Lab:
    """Makes peers of one kind of transport.

    make:    an unstarted transport for an identity
    network: what stands on it
    """

    def __init__(
        self, make: Callable[[Identity], Transport], network: Callable[[Transport, Identity], Network]
    ) -> None:
        self.make, self.network = make, network
        self._made = 0

    def identity(self) -> Identity:
        """One that no other peer of these checks has."""
        self._made += 1
        return Identity.derived(20_261, self._made)

    @contextlib.asynccontextmanager
    async def peers(self, count: int) -> AsyncIterator[list[Peer]]:
        """So many peers, each told where the others are."""
        peers: list[Peer] = []
        try:
            for _ in range(count):
                peers.append(await self.start(self.identity(), peers))
            yield peers
        finally:
            for peer in peers:
                await peer.net.close()

    async def start(self, identity: Identity, others: list[Peer]) -> Peer:
        """One more peer, told of others, and they of it."""
        transport = self.make(identity)
        assert transport.peer_id == identity.peer_id, "peer_id is not that of the identity given to make"
        peer = Peer(identity, transport, self.network(transport, identity))
        await peer.net.start()
        for other in others:
            introduce(transport, other.transport)
        return peer

    @contextlib.asynccontextmanager
    async def hostile(self, *victims: Peer) -> AsyncIterator[Raw]:
        """A bare transport that knows its victims."""
        identity = self.identity()
        raw = Raw(identity, self.make(identity))
        raw.transport.on_frame(raw.hear)
        await raw.transport.start()
        try:
            for victim in victims:
                introduce(raw.transport, victim.transport)
            yield raw
        finally:
            await raw.transport.close()


def introduce(one: Transport, other: Transport) -> None:
    """Tell two of each other."""
    one.add_hint(other.peer_id, other.addresses())
    other.add_hint(one.peer_id, one.addresses())


async def until(peer: Peer, happened: Callable[[], Any], otherwise: str) -> None:
    """Wait for what should happen; AssertionError with ``otherwise`` when it has not."""
    end = peer.transport.now() + PATIENCE
    while not happened():
        assert peer.transport.now() < end, otherwise
        await peer.transport.sleep(0.01)


async def fails(call: Awaitable[Any], kind: type[HublessError], otherwise: str) -> HublessError:
    """The error that a call must raise; AssertionError with ``otherwise`` when it raises another, none, or hangs."""
    try:
        async with asyncio.timeout(PATIENCE):
            result = await call
    except kind as error:
        return error
    except TimeoutError:
        raise AssertionError(f"{otherwise} (nothing came in {PATIENCE:g} s)") from None
    except HublessError as error:
        raise AssertionError(f"{otherwise} (came: {type(error).__name__}: {error})") from error
    raise AssertionError(f"{otherwise} (came: {repr(result)[:80]})")


@contextlib.contextmanager
def refused(kind: type[HublessError], otherwise: str) -> Iterator[None]:
    """What is inside must raise ``kind``; AssertionError with ``otherwise`` when it does not."""
    try:
        yield
    except kind:
        return
    raise AssertionError(otherwise)
