"""Frames over TCP, encrypted with TLS 1.3 in which both sides prove their peer id.

Each peer has up to two connections, the lanes: frames of ``limits.bulk`` bytes and more go over the second one, dialled
when first needed, so that small frames do not wait behind large ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity, is_peer_id
from hubless.net.policy import LIMITS, TIMEOUTS, Limits, Timeouts
from hubless.net.transports.addresses import Hints, is_loopback, own_address, spelled, split
from hubless.net.transports.door import Door
from hubless.net.transports.link import Introduction, Link, Refused
from hubless.net.transports.real_time import RealTime
from hubless.net.transports.tls import BULK, MAIN, Contexts
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach

log = logging.getLogger(__name__)
Lane = tuple[PeerId, str]


class TcpTransport(RealTime):
    """Frames over TCP; a Transport.

    host, port: where to listen; port 0 is any free one. Another host than this machine is for the caller to name
    tls:        False: neither encrypted nor proven, for measuring; loopback only
    allow:      peers that may connect or be connected to; None: all
    stats:      ``reject:<reason>`` of connections and frames, ``drop:<reason>`` of frames that were to be sent
    """

    def __init__(
        self,
        identity: Identity,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: bool = True,
        allow: frozenset[PeerId] | None = None,
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        if not 0 <= port <= 65_535:
            raise ConfigError(f"tcp.port = {port}: must be 0 (any) to 65535")
        if not host:
            raise ConfigError("tcp.host = '': must be an address of this machine; 0.0.0.0 is all of them")
        if not tls and not is_loopback(host):
            raise ConfigError(f"tcp.tls = False: only on loopback, not on {host}")
        for peer in sorted(allow or ()):
            if not is_peer_id(peer):
                raise ConfigError(f"tcp.allow = {peer!r}: must be peer ids, 64 lower-case hex digits each")
        self.identity, self.peer_id = identity, identity.peer_id
        self.host, self.port = host, port
        self.allow, self.timeouts, self.limits = allow, timeouts, limits
        self.max_frame = limits.frame
        self.authenticated = self._secure = tls
        self.stats: Counter[str] = Counter()
        self._contexts: Contexts | None = None
        self._frames: list[FrameHandler] = []
        self._losses: list[LostHandler] = []
        self._hints = Hints(limits.hints)
        self._links: dict[Lane, Link] = {}  # where to send
        self._open: dict[Link, None] = {}  # every connection
        self._dials: dict[Lane, asyncio.Future[Link]] = {}
        self._parked: dict[Lane, list[bytes]] = {}  # frames that wait for a dial
        self._no_bulk: dict[PeerId, Link] = {}  # main links beside which a second lane could not be dialled
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._door: Door | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._closed = False

    # Transport

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be had."""
        if self._secure:
            self._contexts = Contexts.of(self.identity)
        self._door = Door(self.host, self.port, self.limits.links)
        self.port = self._door.port
        self._spawn(self._accept(self._door))
        self._sweep()

    async def close(self) -> None:
        """Close every link and stop listening; what was sent is given ``timeouts.close`` to leave."""
        if self._closed:
            return
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._door is not None:
            self._door.close()
        for dial in list(self._dials.values()):
            _fail(dial, PeerUnreachable("this node is closed"))
        for end in (Link.close, Link.drop):
            for link in list(self._open):
                end(link)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timeouts.close):
                    while self._open:
                        self._gone.clear()
                        await self._gone.wait()

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Dial if needed and wait for room. Raises PeerUnreachable."""
        self._permit(peer)
        main = self._links.get((peer, MAIN))
        link = main
        if size >= self.limits.bulk:
            link = self._links.get((peer, BULK)) or await self._bulk(peer, main)
        if link is None:
            link = await self._dialled((peer, MAIN))
        while not await link.room():  # it ended; there may be another, where both sides had dialled
            other = self._links.get((peer, link.lane))
            if other is None:
                raise PeerUnreachable(f"peer {peer[:8]}: the link was lost")
            link = other

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send, over a link that is there or is being dialled. Raises FrameTooLarge, PeerUnreachable.

        Dropped and counted when ``limits.backlog`` bytes wait already.
        """
        size = len(frame)
        if size > self.max_frame:
            raise FrameTooLarge(f"a frame of {size:,} bytes: at most {self.max_frame:,}")
        links = self._links
        link = links.get((peer, BULK if size >= self.limits.bulk else MAIN))
        link = link or links.get((peer, MAIN)) or links.get((peer, BULK))
        if link is None:
            self._park(peer, frame)
        elif link.waiting > self.limits.backlog:
            self.stats["drop:backlog"] += 1
        else:
            link.send(frame)

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames; the peer is None where the link does not prove it."""
        self._frames.append(handler)

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that the last link to a peer is gone."""
        self._losses.append(handler)

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Addresses ``host:port`` or ``[host]:port`` of a peer, the best first; others are counted and left out."""
        fitting = [address for address in addresses if split(address)]
        if len(fitting) < len(addresses):
            self.stats["reject:address"] += len(addresses) - len(fitting)
        self._hints.add(peer, fitting)

    def addresses(self) -> list[str]:
        """Where this node listens."""
        return [spelled(own_address(self.host), self.port)]

    def reach(self, peer: PeerId) -> Reach:
        """Direct where there is a link or an address."""
        linked = (peer, MAIN) in self._links or (peer, BULK) in self._links
        return "direct" if linked or peer in self._hints else "none"

    # what links tell

    def made(self, link: Link) -> None:
        """A connection, not yet introduced."""
        self._open[link] = None
        if self._closed:
            link.drop()

    def introduced(self, link: Link, other: Introduction) -> Introduction:
        """Welcome unless it is ourselves or not allowed."""
        if other.peer == self.peer_id:
            raise Refused("oneself", "the address is our own")
        if self.allow is not None and other.peer not in self.allow:
            raise Refused("stranger", f"peer {other.peer[:8]} is not on the allow-list")
        return Introduction(self.peer_id, other.lane, self.port)

    def established(self, link: Link, other: Introduction) -> None:
        """The newest link of a lane is the one to send on: an older one may be of a process that is no more.

        When both sides dialled at once there are two. The smaller id decides: it leaves the older of them.
        """
        lane = (link.peer, link.lane)
        old, self._links[lane] = self._links.get(lane), link
        if other.port and not link.dialled:
            self.add_hint(link.peer, [*self._hints.of(link.peer), spelled(link.address("peername"), other.port)])
        if old is not None and self.peer_id < link.peer:
            old.leave()
        live = [other for other in self._open if other.live]
        if len(live) > self.limits.links:
            min((other for other in live if other is not link), key=lambda other: other.used).leave()
            self.stats["links closed"] += 1
        if dial := self._dials.pop(lane, None):
            dial.set_result(link)
        for frame in self._parked.pop(lane, ()):
            link.send(frame)

    def heard(self, peer: PeerId, frame: bytes) -> None:
        """Pass a frame on; what goes wrong there is not the sender's doing."""
        for handler in self._frames:
            try:
                handler(peer if self.authenticated else None, frame)
            except Exception:
                self.stats["failed handlers"] += 1
                log.exception("a handler of frames failed on one from %s", peer[:8])

    def ended(self, link: Link, reason: str | None) -> None:
        """Send elsewhere from now on, where there is another link."""
        if reason is not None:
            self.stats[f"reject:{reason}"] += 1
            log.info("dropped a link to %s: %s", link.peer[:8] or "?", reason)
        lane = (link.peer, link.lane)
        if self._links.get(lane) is link:
            del self._links[lane]
            for other in self._open:
                if other.live and (other.peer, other.lane) == lane:
                    self._links[lane] = other

    def lost(self, link: Link) -> None:
        """Tell whoever wants to know, if it was the last one to that peer."""
        self._open.pop(link, None)
        self._gone.set()
        if self._no_bulk.get(link.peer) is link:
            del self._no_bulk[link.peer]
        linked = any(other.live and other.peer == link.peer for other in self._open)
        if link.introduced and not linked and not self._closed:
            for handler in self._losses:
                handler(link.peer)

    # dialling

    def _permit(self, peer: PeerId) -> None:
        if self._closed or self._door is None:
            raise PeerUnreachable("this node is closed" if self._closed else "this node has not started")
        if self.allow is not None and peer not in self.allow:
            raise PeerUnreachable(f"peer {peer[:8]}: not on the allow-list")

    async def _bulk(self, peer: PeerId, main: Link | None) -> Link | None:
        """The second lane; the first, where there is one and the second cannot be had without waiting for long.

        Who was dialled may not be able to dial back: it tries once beside its main link, and does not wait.
        """
        if main is None:
            return await self._dialled((peer, BULK))
        if self._no_bulk.get(peer) is main or peer not in self._hints:
            return main
        dial = self._dial((peer, BULK))
        if not main.dialled:
            self._no_bulk[peer] = main  # once
            return main
        try:
            return await asyncio.shield(dial)
        except PeerUnreachable:
            self._no_bulk[peer] = main
            return main

    async def _dialled(self, lane: Lane) -> Link:
        return await asyncio.shield(self._dial(lane))

    def _dial(self, lane: Lane) -> asyncio.Future[Link]:
        """The link that a lane will have: one that is dialled now, or one that comes in first."""
        dial = self._dials.get(lane)
        if dial is None:
            dial = self._dials[lane] = asyncio.get_running_loop().create_future()
            self._spawn(self._try(lane))
        return dial

    def _park(self, peer: PeerId, frame: bytes) -> None:
        """Keep a frame until its peer is dialled."""
        self._permit(peer)
        if peer not in self._hints:
            raise PeerUnreachable(f"peer {peer[:8]}: no address")
        lane = (peer, MAIN)
        parked = self._parked.setdefault(lane, [])
        if sum(map(len, parked)) > self.limits.backlog:
            self.stats["drop:backlog"] += 1
            return
        parked.append(frame)
        self._dial(lane)

    async def _try(self, lane: Lane) -> None:
        """Dial one address after another."""
        peer, name = lane
        addresses = self._hints.of(peer)
        failed = [] if addresses else ["no address"]
        for address in addresses:
            link = Link(self, self._secure, peer, Introduction(self.peer_id, name, self.port))
            try:
                async with asyncio.timeout(self.timeouts.dial / len(addresses)):
                    await self._connect(link, address)
                    await link.ready
            except (OSError, PeerUnreachable, TimeoutError) as error:
                link.drop()
                failed.append(f"{address}: {getattr(error, 'strerror', None) or str(error) or 'no answer'}")
            except asyncio.CancelledError:
                link.drop()
                raise
            else:
                self.add_hint(peer, [address])  # to the front
                return
        dial = self._dials.pop(lane, None)
        if dial is not None:
            if parked := self._parked.pop(lane, None):
                self.stats["drop:unreachable"] += len(parked)
            _fail(dial, PeerUnreachable(f"peer {peer[:8]}: {'; '.join(failed)}"))

    async def _connect(self, link: Link, address: str) -> None:
        host, port = split(address) or ("", 0)
        loop = asyncio.get_running_loop()
        if self._contexts is None:
            await loop.create_connection(lambda: link, host, port)
        else:
            await loop.create_connection(
                lambda: link, host, port, ssl=self._contexts.clients[link.lane], server_hostname="",
                ssl_handshake_timeout=self.timeouts.dial, ssl_shutdown_timeout=self.timeouts.close,
            )  # fmt: skip

    # being dialled

    async def _accept(self, door: Door) -> None:
        while True:
            connection = await door.next(self.timeouts.heartbeat)
            if connection is None:
                self.stats["reject:crowd"] += 1
            else:
                self._spawn(self._greet(door, connection))

    async def _greet(self, door: Door, connection: socket.socket) -> None:
        """Handshake and introduction, in the time of a dial."""
        link = Link(self, self._secure)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.dial):
                if self._contexts is None:
                    await loop.connect_accepted_socket(lambda: link, connection)
                else:
                    await loop.connect_accepted_socket(
                        lambda: link, connection, ssl=self._contexts.server,
                        ssl_handshake_timeout=self.timeouts.dial, ssl_shutdown_timeout=self.timeouts.close,
                    )  # fmt: skip
                await link.ready
        except (OSError, TimeoutError):
            link.drop("handshake")
        except PeerUnreachable:
            if not link.refused:  # that was counted
                self.stats["reject:handshake"] += 1
        except asyncio.CancelledError:
            link.drop()
            raise
        finally:
            door.inside()

    # watching

    def _sweep(self) -> None:
        """Drop links that have stalled."""
        for link in list(self._open):
            if link.stalled():
                link.drop("stalled")
        self._sweeper = asyncio.get_running_loop().call_later(self.timeouts.stall, self._sweep)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the TCP transport failed", exc_info=error)


def _fail(dial: asyncio.Future[Link], error: PeerUnreachable) -> None:
    """Where somebody waits, tell; where nobody does, it is no fault."""
    dial.set_exception(error)
    dial.exception()
