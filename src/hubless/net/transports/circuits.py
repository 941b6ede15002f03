"""Circuits of libp2p (circuit relay v2): slots at relays, calls through them, and holes punched beside them (DCUtR).

All of it runs on trio's side, and only where relays are named: two peers behind translators both need some. Seen with
py-libp2p 0.8.1 and the relay of js-libp2p, on one machine: slots, calls, and direct connections beside relayed ones.
The library's own search for relays is not used: it asks for no slot before it is told to.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.dcutr import DCUtRProtocol
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from hubless.net.policy import Timeouts
from hubless.net.transports.libp2p_names import CIRCUIT


class Circuits:
    """What a host does with relays.

    relays: their multiaddresses, each with the relay's libp2p id, at which a slot is kept
    slots:  those that gave one, and until when (Unix time)
    """

    def __init__(self, host: Any, relays: Sequence[str], timeouts: Timeouts) -> None:
        self.host, self.relays, self.timeouts = host, list(relays), timeouts
        self.slots: dict[str, float] = {}
        self._protocol = CircuitV2Protocol(host)
        self._transport = CircuitV2Transport(host, self._protocol, RelayConfig(roles=RelayRole.STOP))

    async def run(self) -> None:
        """Take calls through relays and keep slots, until cancelled."""
        async with contextlib.AsyncExitStack() as services, trio.open_nursery() as nursery:
            await services.enter_async_context(background_trio_service(self._protocol))
            await services.enter_async_context(background_trio_service(DCUtRProtocol(self.host)))
            for relay in self.relays:
                nursery.start_soon(self._keep, relay, nursery)
            await trio.sleep_forever()

    async def call(self, address: str) -> None:
        """Connect to a peer by an address ``RELAY/p2p-circuit/p2p/ID``. Raises whatever the library does."""
        await self._transport.dial(Multiaddr(address))

    async def _keep(self, relay: str, nursery: trio.Nursery) -> None:
        """Have a slot, always: a new one at half of its time, or when the relay was lost."""
        pause = self.timeouts.step
        while True:
            until = 0.0
            with contextlib.suppress(Exception), trio.move_on_after(self.timeouts.request):
                until = await self._reserve(relay)
            if until > time.time():
                self.slots[relay], pause = until, self.timeouts.step
                again = time.time() + (until - time.time()) / 2
                while time.time() < again and self._connected(relay):
                    await trio.sleep(self.timeouts.heartbeat)
            if not self._connected(relay):
                self.slots.pop(relay, None)
                await trio.sleep(pause)
                pause = min(2 * pause, self.timeouts.redial)

    async def _reserve(self, relay: str) -> float:
        """Ask for a slot; until when it is, or 0."""
        info = info_from_p2p_addr(Multiaddr(relay))
        await self.host.connect(info)
        stream = await self.host.new_stream(info.peer_id, [PROTOCOL_ID])
        try:
            # the public ``reserve`` does the same and starts a task that renews, which ends when a relay is lost
            if not await self._transport._make_reservation(stream, info.peer_id):
                return 0.0
        finally:
            await stream.close()
        return float(self._transport._reservations[info.peer_id])

    def _connected(self, relay: str) -> bool:
        return bool(self.host.get_network().connections.get(info_from_p2p_addr(Multiaddr(relay)).peer_id))


def circuit_address(address: str, own: Any) -> str:
    """An address through a relay as it is kept: with the id of whom it leads to. Raises what the library does."""
    relay, _, rest = address.partition(CIRCUIT)
    info_from_p2p_addr(Multiaddr(relay))
    if rest not in ("", f"/p2p/{own}"):
        raise ValueError("leads to another peer")
    return f"{relay}{CIRCUIT}/p2p/{own}"
