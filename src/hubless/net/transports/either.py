"""Two transports as one: a way that is better where it is to be had, and another for all else."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.policy import LIMITS, TIMEOUTS, Timeouts
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach, Transport

MULTIADDRESS = "/"  # how addresses of libp2p begin, and no others


class EitherTransport:
    """A transport that punches holes, and one with relays for whom it does not reach; a Transport.

    As with addresses of two kinds (RFC 8305) the better way has a start of ``Timeouts.step`` seconds; it is tried until
    it stands, at most once in ``Timeouts.redial``, and taken as soon as it does.

    first:  over libp2p: multiaddresses are for it
    second: all other addresses are for it
    """

    def __init__(self, first: Transport, second: Transport, *, timeouts: Timeouts = TIMEOUTS) -> None:
        if first.peer_id != second.peer_id:
            raise ConfigError(f"either.second = {second.peer_id[:8]}: must be the same peer, {first.peer_id[:8]}")
        self.first, self.second, self.peer_id = first, second, first.peer_id
        self.authenticated = first.authenticated and second.authenticated
        self.max_frame = min(first.max_frame, second.max_frame)
        self.timeouts = timeouts
        self.now, self.sleep, self.run = first.now, first.sleep, first.run
        self._lost: LostHandler = _nobody
        self._again: dict[PeerId, float] = {}  # when to try the first way again
        self._tries: dict[PeerId, asyncio.Task[bool]] = {}

    @property
    def stats(self) -> Counter[str]:
        """Both transports' counts."""
        return Counter(getattr(self.first, "stats", {})) + Counter(getattr(self.second, "stats", {}))

    async def start(self) -> None:
        """Start both. Raises ConfigError."""
        self.first.on_lost(lambda peer: self._lost(peer))
        self.second.on_lost(self._second_lost)
        await self.first.start()
        try:
            await self.second.start()
        except BaseException:
            await self.first.close()
            raise

    async def close(self) -> None:
        """Close both."""
        tries = list(self._tries.values())
        for task in tries:
            task.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
        await self.first.close()
        await self.second.close()

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """The first way if it stands soon, else the second, else whichever stands. Raises PeerUnreachable."""
        attempt = self._try(peer, size)
        if attempt is not None:
            await asyncio.wait({attempt}, timeout=self.timeouts.step)
            if attempt.done() and not attempt.cancelled() and attempt.result():
                return
        try:
            await self.second.ready(peer, size)
        except PeerUnreachable:
            if attempt is None or not await asyncio.shield(attempt):
                raise

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send the better way that is there. Raises FrameTooLarge, PeerUnreachable."""
        if len(frame) > self.max_frame:
            raise FrameTooLarge(f"a frame of {len(frame):,} bytes: at most {self.max_frame:,}")
        self._way(peer).send(peer, frame)

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames of both."""
        self.first.on_frame(handler)
        self.second.on_frame(handler)

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that the way to a peer that was in use is gone; there may be another."""
        self._lost = handler

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Where a peer may be found, each way."""
        for transport, given in (
            (self.first, [address for address in addresses if address.startswith(MULTIADDRESS)]),
            (self.second, [address for address in addresses if not address.startswith(MULTIADDRESS)]),
        ):
            if given:
                transport.add_hint(peer, given)

    def addresses(self) -> list[str]:
        """Where this peer may be found, each way in turn: who takes only so many has some of both."""
        first, second = self.first.addresses(), self.second.addresses()
        both = [address for pair in zip(first, second, strict=False) for address in pair]
        return both + first[len(second) :] + second[len(first) :]

    def reach(self, peer: PeerId) -> Reach:
        """How a frame would get there now."""
        return self._way(peer).reach(peer)

    def _way(self, peer: PeerId) -> Transport:
        return self.first if self.first.reach(peer) != "none" or self.second.reach(peer) == "none" else self.second

    def _try(self, peer: PeerId, size: int) -> asyncio.Task[bool] | None:
        """The attempt at the first way that is under way, or a new one; None while it is not its time."""
        attempt = self._tries.get(peer)
        if attempt is not None:
            return attempt
        if self.first.reach(peer) == "none" and self._again.get(peer, 0.0) > self.now():
            return None
        attempt = asyncio.get_running_loop().create_task(self._stands(peer, size))
        self._tries[peer] = attempt
        attempt.add_done_callback(lambda done: self._tries.pop(peer, None))
        return attempt

    async def _stands(self, peer: PeerId, size: int) -> bool:
        with contextlib.suppress(PeerUnreachable):
            await self.first.ready(peer, size)
            self._again.pop(peer, None)
            return True
        self._again.pop(peer, None)
        self._again[peer] = self.now() + self.timeouts.redial
        if len(self._again) > LIMITS.hints:
            del self._again[next(iter(self._again))]
        return False

    def _second_lost(self, peer: PeerId) -> None:
        if self.first.reach(peer) == "none":
            self._lost(peer)


def _nobody(peer: PeerId) -> None:
    """Hears what nobody listens to."""
