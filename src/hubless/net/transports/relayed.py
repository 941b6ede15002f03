"""Frames through a third peer, where two cannot reach each other: a transport around another.

As libp2p's circuit relay v2 (reservations, quotas), but where Lattica refuses requests over a relay they are served.
A relay sees who speaks to whom, and how much, but not what: only sealed frames go in.

    frame of the inner transport = 0x40 + step (RESERVE, GRANTED, CARRY, DELIVER, DENIED, LEAVING) + peer [32] + rest
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from math import inf
from typing import Any

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.envelope import is_sealed
from hubless.net.identity import KEY, is_peer_id
from hubless.net.policy import LIMITS, TIMEOUTS, Limits, Timeouts
from hubless.net.transports.carrying import ABSENT, Carrier
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach, Transport

MARK = 0x40  # no frame of a Network begins with it
RESERVE, GRANTED, CARRY, DELIVER, DENIED, LEAVING = range(6)
HEAD = 2 + KEY
SCHEME = "relay:"  # an address "relay:PEER@ADDRESS": reached through PEER, which is at ADDRESS ("" where it is known)
WAYS = 4  # relays to one peer that are remembered


class RelayedTransport:
    """A transport with a way around; a Transport.

    inner:  how to reach relays, and whoever can be reached without one; its links must prove their peers
    relays: peers with their addresses at which to reserve a slot, so that others can reach this one
    carry:  whether to be a relay for others
    stats:  "reject:REASON" of frames, "carried" and "carried bytes", "denied:REASON"
    """

    def __init__(
        self,
        inner: Transport,
        relays: Mapping[PeerId, list[str]] | None = None,
        *,
        carry: bool = False,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        if not inner.authenticated:
            raise ConfigError("relayed.inner: its links must prove their peers")
        self.inner, self.peer_id, self.authenticated = inner, inner.peer_id, True
        self.max_frame = inner.max_frame - HEAD
        self.timeouts, self.limits = timeouts, limits
        self.now, self.sleep, self.run = inner.now, inner.sleep, inner.run
        self.stats: Counter[str] = Counter()
        self.carrier = Carrier(timeouts, limits, inner.now) if carry else None
        self.slots: dict[PeerId, float] = {}  # relays at which this peer has a slot, and until when
        self._relays = {peer: list(addresses) for peer, addresses in (relays or {}).items() if peer != self.peer_id}
        self._ways: dict[PeerId, dict[PeerId, None]] = {}  # relays through which a peer may be found, the best last
        self._indirect: dict[PeerId, float] = {}  # peers that could not be dialled, and when to try again
        self._granted: dict[PeerId, asyncio.Event] = {}
        self._frame: FrameHandler = _nobody
        self._lost: LostHandler = _nobody
        self._tasks: dict[asyncio.Task[None], None] = {}

    # Transport

    async def start(self) -> None:
        """Start the inner transport, then reserve slots in the background."""
        self.inner.on_frame(self._hear)
        self.inner.on_lost(self._gone)
        await self.inner.start()
        for relay, addresses in self._relays.items():
            if addresses:
                self.inner.add_hint(relay, addresses)
            self._spawn(self._reserve(relay), f"slot at {relay[:8]}")

    async def close(self) -> None:
        """Leave: those with a slot here are told."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.carrier is not None:
            for peer in sorted(self.carrier.slots):
                self._tell(peer, LEAVING, self.peer_id)
            self.carrier.slots.clear()
        await self.inner.close()

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Dial, and where nobody answers take the way around. Raises PeerUnreachable."""
        if self._relay(peer) is None:
            try:
                await self.inner.ready(peer, size)
            except PeerUnreachable:
                if not self._ways.get(peer):
                    raise
                self._indirect[peer] = self.now() + self.timeouts.redial
            else:
                return
        elif self._indirect.get(peer, inf) < self.now():
            self._indirect[peer] = self.now() + self.timeouts.redial
            self._spawn(self._redial(peer), f"redial {peer[:8]}")
        failure = PeerUnreachable(f"{peer[:8]} is behind relays that are gone")
        for way in reversed(list(self._ways.get(peer, ()))):
            try:
                await self.inner.ready(way, size)
            except PeerUnreachable as error:
                failure = error
                self._ways.get(peer, {}).pop(way, None)
            else:
                self._learn(peer, way)
                return
        raise failure

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send now or never. Raises FrameTooLarge, PeerUnreachable."""
        if len(frame) > self.max_frame:
            raise FrameTooLarge(f"a frame of {len(frame):,} bytes: at most {self.max_frame:,}")
        relay = self._relay(peer)
        if relay is None:
            self.inner.send(peer, frame)
        elif not is_sealed(frame):
            raise PeerUnreachable(f"{peer[:8]} is behind a relay, which would read what is not sealed")
        else:
            self.inner.send(relay, _head(CARRY, peer) + frame)

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames; from None where a relay brought it."""
        self._frame = handler

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that the last way to a peer is gone."""
        self._lost = handler

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Addresses of the inner transport, and ``relay:PEER@ADDRESS``."""
        direct = [address for address in addresses if not address.startswith(SCHEME)]
        for address in reversed(addresses):
            if address.startswith(SCHEME):
                relay, _, at = address[len(SCHEME) :].partition("@")
                if not is_peer_id(relay) or relay in (peer, self.peer_id):
                    self.stats["reject:address"] += 1
                    continue
                if at:
                    self.inner.add_hint(relay, [at])
                self._learn(peer, relay)
        if direct:
            self.inner.add_hint(peer, direct)

    def addresses(self) -> list[str]:
        """Those of the inner transport, and one for each relay with a slot for this peer, as long as it is there."""
        now = self.now()
        ways = []
        for relay, until in self.slots.items():
            if until > now:
                ways += [f"{SCHEME}{relay}@{address}" for address in self._relays[relay][:1] or [""]]
        return self.inner.addresses() + ways

    def reach(self, peer: PeerId) -> Reach:
        """How a frame would get there now."""
        relay = self._relay(peer)
        if relay is None:
            return self.inner.reach(peer)
        return "none" if self.inner.reach(relay) == "none" else "relayed"

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    # ways

    def _relay(self, peer: PeerId) -> PeerId | None:
        """The relay that a frame would take; None for the direct way."""
        ways = self._ways.get(peer)
        if not ways:
            return None
        direct = peer not in self._indirect and self.inner.reach(peer) != "none"
        return None if direct else next(reversed(ways))

    async def _redial(self, peer: PeerId) -> None:
        """Try the direct way again; frames go around until there is one."""
        with contextlib.suppress(PeerUnreachable):
            await self.inner.ready(peer)
            self._indirect.pop(peer, None)

    def _learn(self, peer: PeerId, relay: PeerId) -> None:
        ways = self._ways.pop(peer, {})
        ways.pop(relay, None)
        ways[relay] = None
        if len(ways) > WAYS:
            del ways[next(iter(ways))]
        self._ways[peer] = ways
        if len(self._ways) > self.limits.hints:
            gone = next(iter(self._ways))
            del self._ways[gone]
            self._indirect.pop(gone, None)

    def _lose(self, peer: PeerId, relay: PeerId) -> None:
        """A way is closed; the last one that was in use is a lost link."""
        used = self._relay(peer) == relay
        ways = self._ways.get(peer, {})
        ways.pop(relay, None)
        if not ways:
            self._ways.pop(peer, None)
            self._indirect.pop(peer, None)
            if used:
                self._lost(peer)

    def _gone(self, peer: PeerId) -> None:
        """A link of the inner transport is lost."""
        if self.carrier is not None:
            self.carrier.release(peer)
        self._leave(peer)
        if peer == self.peer_id or self._relay(peer) is None:
            self._lost(peer)

    def _leave(self, relay: PeerId) -> None:
        """A relay is gone: its slot is withdrawn, and the ways through it."""
        self.slots.pop(relay, None)
        for peer in [peer for peer, ways in self._ways.items() if relay in ways]:
            self._lose(peer, relay)

    async def _reserve(self, relay: PeerId) -> None:
        """Have a slot, always."""
        pause = self.timeouts.step
        while True:
            granted = self._granted[relay] = asyncio.Event()
            with contextlib.suppress(PeerUnreachable, TimeoutError):
                await self.inner.ready(relay)
                self.inner.send(relay, _head(RESERVE, relay))
                async with asyncio.timeout(self.timeouts.request):
                    await granted.wait()
            if self.slots.get(relay, 0.0) > self.now():
                pause = self.timeouts.step
                end = self.now() + self.timeouts.lease / 2
                while relay in self.slots and self.now() < end:
                    await self.sleep(self.timeouts.step)
            else:
                await self.sleep(pause)
                pause = min(2 * pause, self.timeouts.redial)

    # frames

    def _hear(self, link: PeerId | None, frame: bytes) -> None:
        if frame[:1] != bytes([MARK]):
            if link is not None and link in self._indirect:
                del self._indirect[link]  # there is a direct way after all
            self._frame(link, frame)
        elif link is None or len(frame) < HEAD or frame[1] > LEAVING:
            self.stats["reject:relay frame"] += 1
        else:
            peer, rest = frame[2:HEAD].hex(), frame[HEAD:]
            self._steps[frame[1]](self, link, peer, rest)

    def _on_reserve(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        refusal = b"no relay" if self.carrier is None else self.carrier.reserve(link)
        if refusal is None:
            self._tell(link, GRANTED, self.peer_id)
        else:
            self._deny(link, self.peer_id, refusal)

    def _on_granted(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        if link in self._relays and link == peer:
            self.slots[link] = self.now() + self.timeouts.lease
            if link in self._granted:
                self._granted[link].set()

    def _on_carry(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        if self.carrier is None or not is_sealed(rest):
            self.stats["reject:not carried"] += 1
            return
        refusal = ABSENT if peer in (link, self.peer_id) else self.carrier.carry(link, peer, len(rest))
        if refusal is None and self._tell(peer, DELIVER, link, rest):
            self.stats["carried"] += 1
            self.stats["carried bytes"] += len(rest)
        else:
            self._deny(link, peer, refusal or ABSENT)

    def _on_deliver(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        if not is_sealed(rest) or peer == self.peer_id:
            self.stats["reject:not sealed"] += 1
            return
        if link not in self.slots and link not in self._ways.get(peer, {}):  # else anybody could be in the way
            self.stats["reject:not asked"] += 1
            return
        if self._relay(peer) is None:
            self._learn(peer, link)  # so that an answer finds its way; who spoke is proven by what is in the box
            if self.inner.reach(peer) != "none" and peer not in self._indirect:
                self._indirect[peer] = self.now() + self.timeouts.redial
        self._frame(None, rest)

    def _on_denied(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        self.stats[f"denied:{rest[:16].decode('ascii', 'replace')}"] += 1
        if link == peer:
            if link in self._granted:
                self._granted[link].set()
        elif link in self._ways.get(peer, {}):
            self._lose(peer, link)

    def _on_leaving(self, link: PeerId, peer: PeerId, rest: bytes) -> None:
        if link == peer:
            self._leave(link)

    _steps: tuple[Callable[[RelayedTransport, PeerId, PeerId, bytes], None], ...] = (
        _on_reserve, _on_granted, _on_carry, _on_deliver, _on_denied, _on_leaving,
    )  # fmt: skip

    def _deny(self, to: PeerId, peer: PeerId, reason: bytes) -> None:
        self.stats[f"refused:{reason.decode()}"] += 1
        self._tell(to, DENIED, peer, reason)

    def _tell(self, to: PeerId, step: int, peer: PeerId, rest: bytes = b"") -> bool:
        try:
            self.inner.send(to, _head(step, peer) + rest)
        except PeerUnreachable:
            return False
        return True


def _head(step: int, peer: PeerId) -> bytes:
    try:
        return bytes((MARK, step)) + bytes.fromhex(peer)
    except ValueError:
        raise PeerUnreachable(f"{peer[:8]!r} is no peer id") from None


def _nobody(*_: Any) -> None:
    """Hears what nobody listens to."""
