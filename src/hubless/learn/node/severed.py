"""A transport whose connections can be dropped for a while: to see what a deployment makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubless.errors import PeerUnreachable
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach, Transport

HINTS = 4096


class Severable:
    """Carries frames as the transport that ``make`` makes for a port (0: any); ``cut`` closes that, ``heal`` makes
    another one on the same port."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make
        self._inner: Any = make(0)
        self._up = True
        self._frame: FrameHandler = _nobody
        self._lost: LostHandler = _nobody
        self._hints: dict[PeerId, list[str]] = {}
        self._seen: dict[PeerId, None] = {}
        self.peer_id: PeerId = self._inner.peer_id
        self.max_frame: int = self._inner.max_frame
        self.authenticated: bool = self._inner.authenticated

    async def cut(self) -> None:
        """Drop every connection and take no new one."""
        if self._up:
            self._up = False
            await self._inner.close()
            for peer in list(self._seen):
                self._lost(peer)

    async def heal(self) -> None:
        """Listen again, at the address of before."""
        if not self._up:
            self._inner = self._make(self._inner.port)
            self._wire(self._inner)
            await self._inner.start()
            self._up = True

    async def start(self) -> None:
        """Listen."""
        self._wire(self._inner)
        await self._inner.start()

    async def close(self) -> None:
        """Close for good."""
        if self._up:
            await self._inner.close()

    def _wire(self, inner: Transport) -> None:
        inner.on_frame(self._heard)
        inner.on_lost(self._gone)
        for peer, addresses in self._hints.items():
            inner.add_hint(peer, addresses)

    def _heard(self, peer: PeerId | None, frame: bytes) -> None:
        if peer is not None:
            self._seen[peer] = None
        self._frame(peer, frame)

    def _gone(self, peer: PeerId) -> None:
        self._seen.pop(peer, None)
        self._lost(peer)

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """As the transport's. Raises PeerUnreachable while cut."""
        if not self._up:
            raise PeerUnreachable("cut off")
        await self._inner.ready(peer, size)

    def send(self, peer: PeerId, frame: bytes) -> None:
        """As the transport's. Raises PeerUnreachable while cut."""
        if not self._up:
            raise PeerUnreachable("cut off")
        self._inner.send(peer, frame)

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames."""
        self._frame = handler

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that a link is lost."""
        self._lost = handler

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Remembered over cuts."""
        if peer in self._hints or len(self._hints) < HINTS:
            self._hints[peer] = addresses
        self._inner.add_hint(peer, addresses)

    def addresses(self) -> list[str]:
        """As the transport's."""
        found: list[str] = self._inner.addresses()
        return found

    def reach(self, peer: PeerId) -> Reach:
        """As the transport's; none while cut."""
        found: Reach = self._inner.reach(peer) if self._up else "none"
        return found

    def now(self) -> float:
        """As the transport's."""
        return float(self._inner.now())

    async def sleep(self, seconds: float) -> None:
        """As the transport's."""
        await self._inner.sleep(seconds)

    async def run(self, work: Callable[..., Any], *arguments: Any, cost: float = 0.0) -> Any:
        """As the transport's."""
        return await self._inner.run(work, *arguments, cost=cost)


def _nobody(*_: object) -> None:
    """Nobody hears yet."""
