"""A simulated network in one process: frames on a virtual clock, over links that delay, lose and repeat them."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable, Coroutine
from heapq import heappush
from typing import Any

from hubless.errors import ConfigError, FrameTooLarge, NetworkError, PeerUnreachable
from hubless.net.transports.clock import SimLoop, run_sim
from hubless.net.transports.nat import NatType, check_nat, punches
from hubless.net.transports.sim_link import POSITIONS, Link
from hubless.net.transports.transport import NOTHING, FrameHandler, LostHandler, PeerId, Reach
from hubless.net.transports.world import SimWorld

__all__ = ["Link", "NatType", "SimTransport", "SimWorld", "run_sim"]

START = 1_767_225_600.0  # unix seconds at which every simulation begins: 2026-01-01


class SimTransport:
    """A peer's way into a simulated world; runs under ``run_sim`` only.

    nat:      the kind of address translator that it is behind
    position: where it lies, drawn from the world's seed and its id
    routes:   peers to which frames travel on a steady link: seconds, and what hears them

    Dialling and punching take no time; a dial that nobody answers takes ``timeouts.dial``. A frame that a relay carried
    comes from None: the link does not prove its sender. Draws come from a generator of the sender's own, so that one
    more peer in the world changes nobody else's losses.
    """

    authenticated = True

    def __init__(self, world: SimWorld, peer_id: PeerId, nat: NatType = "open") -> None:
        check_nat(nat)
        self.world = world
        self.peer_id = peer_id
        self.nat: NatType = nat
        self.max_frame = world.max_frame
        self.routes: dict[PeerId, tuple[float, FrameHandler]] = {}
        generator = random.Random(f"{world.seed}/{peer_id}")
        self.position = generator.randrange(POSITIONS)
        self._draw = generator.random
        self._links: dict[PeerId, SimTransport] = {}
        self._last: dict[PeerId, float] = {}  # arrival of the last frame to a peer, where jitter could swap them
        self._free = 0.0  # when the uplink has sent all that it was given
        self._silent = False
        self._up = False
        self._handler: FrameHandler = _nobody
        self._lost: LostHandler = _nobody
        self._loop: SimLoop | None = None

    async def start(self) -> None:
        """Enter the world. Raises ConfigError outside ``run_sim``, NetworkError if the id is there already."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimLoop):
            raise ConfigError("transport = sim: runs under hubless.net.transports.clock.run_sim only")
        if self.world.peers.setdefault(self.peer_id, self) is not self:
            raise NetworkError(f"{self.peer_id[:8]} runs already in this world")
        self._loop, self._up = loop, True

    async def close(self) -> None:
        """Leave; those with a link hear of it a latency later."""
        self._leave()

    def ready(self, peer: PeerId, size: int = 0) -> Coroutine[Any, Any, None]:
        """Wait for room on the uplink; a peer that does not answer is dialled for ``timeouts.dial``."""
        return NOTHING if peer in self.routes else self._ready(peer)

    async def _ready(self, peer: PeerId) -> None:
        loop, world = self._running(), self.world
        if peer not in self._links:
            far = self._find(peer)
            if self._cut_off(far):
                await asyncio.sleep(world.timeouts.dial)
                far = self._find(peer)
                if self._cut_off(far):
                    raise PeerUnreachable(f"{peer[:8]} did not answer in {world.timeouts.dial:g} s")
            self._connect(far)
        bandwidth = world.link_of(self.peer_id, peer).bandwidth
        if bandwidth:
            wait = self._free - loop.clock - world.limits.buffer / bandwidth
            if wait > 0:
                await asyncio.sleep(wait)

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send now or never. Raises FrameTooLarge, PeerUnreachable."""
        route = self.routes.get(peer)
        if route is None:
            self._send(peer, frame)
            return
        if len(frame) > self.max_frame:
            raise _too_large(frame, self.max_frame)
        loop: Any = self._loop
        heappush(loop.heap, (loop.clock + route[0], loop.order(), route[1], self.peer_id, frame))

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames."""
        self._handler = handler

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that a peer has left or crashed; of this peer itself, when it crashes."""
        self._lost = handler

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Nothing to do: in one world everybody finds everybody."""

    def addresses(self) -> list[str]:
        """One, that means something only here."""
        return [f"sim:{self.peer_id[:8]}"]

    def reach(self, peer: PeerId) -> Reach:
        """How a frame would get there now."""
        if peer in self.routes:
            return "direct"
        far = self.world.peers.get(peer)
        if far is None or not self._up or self._cut_off(far):
            return "none"
        if punches(self.nat, far.nat):
            return "direct"
        return "relayed" if self.world.relay(self, far) else "none"

    def now(self) -> float:
        """Unix seconds, virtual."""
        return START if self._loop is None else START + self._loop.clock

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Virtual seconds."""
        return asyncio.sleep(seconds)

    async def run(self, work: Callable[..., Any], *arguments: Any, cost: float = 0.0) -> Any:
        """Done at once; then ``cost`` virtual seconds pass."""
        result = work(*arguments)
        if cost:
            await asyncio.sleep(cost)
        return result

    def serves(self, far: SimTransport) -> bool:
        """Whether this peer, as a relay, has a link with another now."""
        return not self._cut_off(far) and (punches(self.nat, far.nat) or (self.nat, far.nat) == ("open", "blocked"))

    def silence(self, silent: bool) -> None:
        """Fall silent, or end it."""
        self._silent = silent
        self.world.changed()

    def fall(self) -> None:
        """Crash."""
        self._leave()
        self._lost(self.peer_id)

    def _running(self) -> SimLoop:
        if not self._up or self._loop is None:
            raise PeerUnreachable(f"{self.peer_id[:8]} is not running")
        return self._loop

    def _cut_off(self, far: SimTransport) -> bool:
        return self._silent or far._silent or self.world.apart(self.peer_id, far.peer_id)

    def _find(self, peer: PeerId) -> SimTransport:
        """A peer that runs and is not behind a translator that nobody gets through. Raises PeerUnreachable."""
        far = self.world.peers.get(peer)
        if far is None:
            raise PeerUnreachable(f"{peer[:8]} is not there")
        if not punches(self.nat, far.nat) and self.world.relay(self, far) is None:
            raise PeerUnreachable(f"{peer[:8]} cannot be reached: nat {self.nat} to {far.nat}, and no relay")
        return far

    def _connect(self, far: SimTransport) -> None:
        for one, other in ((self, far), (far, self)):
            one._links[other.peer_id] = other
            if len(one._links) > self.world.limits.links:
                one._drop(next(iter(one._links.values())))

    def _drop(self, far: SimTransport) -> None:
        """End a link."""
        for one, other in ((self, far), (far, self)):
            one.routes.pop(other.peer_id, None)
            if one._links.get(other.peer_id) is other:
                del one._links[other.peer_id]

    def _send(self, peer: PeerId, frame: bytes) -> None:
        """A frame on a link that is not known to be steady."""
        loop, world = self._running(), self.world
        if len(frame) > self.max_frame:
            raise _too_large(frame, self.max_frame)
        far = self._links.get(peer)
        if far is None:
            far = self._find(peer)
            if not self._cut_off(far):
                self._connect(far)
        if not far._up:  # gone while cut off: the link breaks when it is used
            self._hear_of(far)
        elif self._cut_off(far):
            world.stats["cut"] += 1
        elif not punches(self.nat, far.nat):
            relay = world.relay(self, far)
            if relay is None:
                self._hear_of(far)
            else:
                self._travel(relay, relay._forward, far, frame)
        else:
            link = world.link_of(self.peer_id, peer)
            if link.steady and world.trace is None:
                delay, arrive = self.routes[peer] = (link.delay(self.position ^ far.position), far._arrive)
                heappush(loop.heap, (loop.clock + delay, loop.order(), arrive, self.peer_id, frame))
            else:
                self._travel(far, far._arrive, self.peer_id, frame)

    def _travel(self, far: SimTransport, fn: Callable[[Any, bytes], None], source: object, frame: bytes) -> None:
        """One hop to a peer, where ``fn`` is told the source and the frame."""
        loop, world = self._running(), self.world
        link = world.link_of(self.peer_id, far.peer_id)
        when = loop.clock
        if link.bandwidth:
            start = max(when, self._free)
            if (start - when) * link.bandwidth > world.limits.backlog:
                world.stats["backlog"] += 1
                return
            when = self._free = start + len(frame) / link.bandwidth
        if link.loss and self._draw() < link.loss:
            world.stats["lost"] += 1
            return
        delay = link.delay(self.position ^ far.position)
        when += delay
        if link.jitter:
            when = max(when + link.jitter * self._draw(), self._last.get(far.peer_id, 0.0))
            self._last[far.peer_id] = when
        if link.reorder and self._draw() < link.reorder:
            world.stats["held"] += 1
            when += delay * self._draw()
        again = link.duplicate and self._draw() < link.duplicate
        if again:
            world.stats["repeated"] += 1
        for arrival in (when, when + delay * self._draw()) if again else (when,):
            if world.trace is not None:
                stamp = struct.pack("<dI", arrival, len(frame))
                world.trace.update(b"".join((stamp, self.peer_id.encode(), far.peer_id.encode(), frame)))
            heappush(loop.heap, (arrival, loop.order(), fn, source, frame))

    def _arrive(self, peer: PeerId | None, frame: bytes) -> None:
        if self._up and not self._silent:
            self._handler(peer, frame)
        else:
            self.world.stats["cut"] += 1

    def _forward(self, dst: SimTransport, frame: bytes) -> None:
        """As a relay."""
        stats = self.world.stats
        if not (self._up and dst._up and self.serves(dst)):
            stats["cut"] += 1
            return
        stats["relayed"] += 1
        stats["relayed bytes"] += len(frame)
        self._travel(dst, dst._arrive, None, frame)

    def _leave(self) -> None:
        if not self._up:
            return
        del self.world.peers[self.peer_id]
        self._up = False
        for far in self._links.values():
            far.routes.pop(self.peer_id, None)
            if far._up and not self._cut_off(far):
                far._hear_of(self)
        self.routes.clear()
        self._links.clear()

    def _hear_of(self, far: SimTransport) -> None:
        """That a peer is gone, as soon as word of it can be here."""
        loop = self._running()
        delay = self.world.link_of(far.peer_id, self.peer_id).delay(self.position ^ far.position)
        heappush(loop.heap, (loop.clock + delay, loop.order(), self._lose, far, b""))

    def _lose(self, far: SimTransport, _: bytes) -> None:
        if self._up and self._links.get(far.peer_id) is far:
            del self._links[far.peer_id]
            self._lost(far.peer_id)


def _nobody(*_: object) -> None:
    """Hears what nobody listens to."""


def _too_large(frame: bytes, most: int) -> FrameTooLarge:
    return FrameTooLarge(f"a frame of {len(frame):,} bytes: at most {most:,}")
