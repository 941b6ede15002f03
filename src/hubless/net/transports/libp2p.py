"""Frames over libp2p, to peers in any language that speak ``/hubless/1``: py-libp2p, a guest on the asyncio loop.

A stream carries frames one way, each behind its length in 4 bytes, big-endian. Both ends prove their keys (Noise), and
a peer's libp2p key is its identity key. Slower than TcpTransport by an order of magnitude.

Who cannot be dialled keeps slots at relays of libp2p (circuit relay v2), which carry its streams. When both ends have
found a direct way meanwhile, streams are opened anew on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.policy import LIMITS, TIMEOUTS, Limits, Timeouts
from hubless.net.transports.addresses import Hints
from hubless.net.transports.libp2p_names import CIRCUIT, is_relayed, libp2p_id, library, peer_of, relay_address
from hubless.net.transports.libp2p_streams import AT_ONCE, HEAD, Notifee, Way
from hubless.net.transports.real_time import RealTime
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach

log = logging.getLogger(__name__)
PROTOCOL = "/hubless/1"
TRIES = 8  # streams that are opened until one is on the direct connection


class Libp2pTransport(RealTime):
    """Frames over libp2p; a Transport. Needs the extra ``libp2p``.

    host, port: where to listen (TCP); port 0 is any free one. Another host than this machine is for the caller to name
    relays:     multiaddresses, with libp2p ids, of relays at which to keep a slot, so that others can reach this peer
    stats:      ``reject:<reason>`` of streams and frames, ``drop:<reason>`` of frames that were to be sent, ``streams
                renewed`` on a direct connection
    """

    authenticated = True

    def __init__(
        self,
        identity: Identity,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        relays: Sequence[str] = (),
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        if not 0 <= port <= 65_535:
            raise ConfigError(f"libp2p.port = {port}: must be 0 (any) to 65535")
        library()
        self.relays = [relay_address(address) for address in relays]
        self.identity, self.peer_id = identity, identity.peer_id
        self.host, self.port = host, port
        self.timeouts, self.limits = timeouts, limits
        self.max_frame = limits.frame
        self.stats: Counter[str] = Counter()
        self._hints = Hints(limits.hints)
        self._ways: dict[PeerId, Way] = {}
        self._frame: FrameHandler = _nobody
        self._lost: LostHandler = _nobody
        self._guest: Any = None
        self._circuits: Any = None
        self._closed = False

    # Transport

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be had."""
        from hubless.net.transports.guest import Guest

        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:  # the library would share a port that is taken
            socket.create_server((self.host, self.port), family=family).close()
        except OSError as error:
            raise ConfigError(f"libp2p.listen = {self._listen()}: {error.strerror or error}") from None
        self._loop = asyncio.get_running_loop()
        self._guest = await Guest.enter()
        self._listens, self._ended = self._loop.create_future(), self._loop.create_future()
        self._guest.start(self._main)
        try:
            await self._listens
        except ConfigError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections and stop listening."""
        if self._closed or self._guest is None:
            return
        self._closed = True
        self._guest.soon(self._over.set)
        await self._ended
        for way in list(self._ways.values()):
            way.fail(PeerUnreachable("this node is closed"))
        await self._guest.leave()

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Dial if needed and wait for room. Raises PeerUnreachable."""
        way = self._way(peer)
        while not way.open or way.waiting > self.limits.buffer:
            room = self._loop.create_future()
            way.roomy.append(room)
            await room

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send, over a stream that is there or is being opened. Raises FrameTooLarge, PeerUnreachable."""
        size = len(frame)
        if size > self.max_frame:
            raise FrameTooLarge(f"a frame of {size:,} bytes: at most {self.max_frame:,}")
        way = self._way(peer)
        if way.waiting > self.limits.backlog:
            self.stats["drop:backlog"] += 1
            return
        way.queue.append(frame)
        way.waiting += size
        if len(way.queue) == 1:
            self._guest.soon(way.more.set)

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames."""
        self._frame = handler

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that the last connection to a peer is gone."""
        self._lost = handler

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Multiaddresses of a peer, as ``/ip4/127.0.0.1/tcp/4001``, with or without its libp2p id at the end.

        Others are counted and left out.
        """
        from multiaddr import Multiaddr

        fitting = []
        for address in addresses:
            try:
                if CIRCUIT in address:
                    from hubless.net.transports.circuits import circuit_address

                    fitting.append(circuit_address(address, libp2p_id(peer)))
                else:
                    fitting.append(str(Multiaddr(address.split("/p2p/")[0])))
            except Exception:  # the library has an error for each part of an address
                self.stats["reject:address"] += 1
        self._hints.add(peer, fitting)

    def addresses(self) -> list[str]:
        """Where this node listens, and where relays have a slot for it."""
        now, slots = self.now(), {} if self._circuits is None or self._closed else self._circuits.slots
        own = f"{CIRCUIT}/p2p/{libp2p_id(self.peer_id)}"
        return [self._listen(), *(relay + own for relay in self.relays if slots.get(relay, 0.0) > now)]

    def _listen(self) -> str:
        return f"/ip{6 if ':' in self.host else 4}/{self.host}/tcp/{self.port}"

    def reach(self, peer: PeerId) -> Reach:
        """By the connections that there are, or else by the addresses that are known."""
        if self._guest is not None and not self._closed and (connections := self._connections(peer)):
            return "relayed" if all(map(is_relayed, connections)) else "direct"
        hints = self._hints.of(peer)
        if not hints:
            return "none"
        return "relayed" if all(CIRCUIT in hint for hint in hints) else "direct"

    # on asyncio's side

    def _way(self, peer: PeerId) -> Way:
        """The stream to a peer, opened if there is none."""
        way = self._ways.get(peer)
        if way is None:
            if self._closed or self._guest is None:
                raise PeerUnreachable("this node is closed" if self._closed else "this node has not started")
            if self.reach(peer) == "none":
                raise PeerUnreachable(f"peer {peer[:8]}: no address")
            import trio

            way = self._ways[peer] = Way(trio)
            self._guest.start(self._write, peer, way)
        return way

    def _connections(self, peer: PeerId) -> Any:
        try:
            return self._host.get_network().connections.get(libp2p_id(peer))
        except ValueError:
            return None

    # on trio's side; no failure leaves these tasks

    async def _main(self) -> None:
        """The host, from start to close."""
        import trio
        from libp2p import new_host
        from libp2p.crypto.ed25519 import create_new_key_pair
        from multiaddr import Multiaddr

        from hubless.net.transports.circuits import Circuits

        self._over = trio.Event()
        try:
            listen = Multiaddr(self._listen())
            self._host = new_host(key_pair=create_new_key_pair(self.identity._seed), listen_addrs=[listen])
            self._host.set_stream_handler(PROTOCOL, self._read)
            async with self._host.run(listen_addrs=[listen]):
                bound = self._host.get_transport_addrs()
                self.port = int(bound[0].value_for_protocol("tcp"))
                self._host.get_network().register_notifee(Notifee(self._ends))
                self._circuits = Circuits(self._host, self.relays, self.timeouts)
                async with trio.open_nursery() as nursery:
                    if self.relays:
                        nursery.start_soon(self._circuits.run)
                    self._listens.set_result(None)
                    await self._over.wait()
                    for way in self._ways.values():
                        way.scope.cancel()
                    await self._host.close()
                    nursery.cancel_scope.cancel()  # after the host: its services end slowly, and others would wait
        except Exception as error:
            if not self._listens.done():
                self._listens.set_exception(ConfigError(f"libp2p.listen = {self._listen()}: {error}"))
            else:
                log.debug("a libp2p host ended with %r", error)
        finally:
            if not self._ended.done():
                self._ended.set_result(None)

    async def _write(self, peer: PeerId, way: Way) -> None:
        """Open the stream to a peer, then write what comes."""
        import trio

        failure = f"{peer[:8]}: the connection was lost"
        stream = None
        with way.scope:
            try:
                target = libp2p_id(peer)
                failure = f"{peer[:8]} could not be dialled"
                with trio.fail_after(self.timeouts.dial):
                    await self._dial(peer, target)
                    stream, around = await self._open(peer, target)
                way.open = True
                failure = f"{peer[:8]}: the connection was lost"
                way.welcome()
                while True:
                    if not way.queue:
                        way.more = trio.Event()
                        await way.more.wait()
                    if around and not self._all_relayed(peer):
                        before = stream
                        with trio.fail_after(self.timeouts.dial):
                            stream, around = await self._open(peer, target)
                            await before.close()
                        self.stats["streams renewed"] += 1
                    await way.write_some(stream, self.limits.buffer, self.timeouts.stall)
            except Exception as error:  # the library raises a dozen kinds
                failure = f"{failure}: {error or type(error).__name__}"
        if self._ways.get(peer) is way:
            del self._ways[peer]
        way.fail(PeerUnreachable(failure))
        if stream is not None:
            with trio.CancelScope(shield=True), contextlib.suppress(Exception), trio.fail_after(1.0):
                await stream.reset()

    async def _open(self, peer: PeerId, target: Any) -> tuple[Any, bool]:
        """A stream, and whether it goes through a relay; not while there is a direct connection.

        The library takes the connections to a peer in turn, and keeps relayed ones for a minute after a punch.
        """
        for _ in range(TRIES):
            stream = await self._host.new_stream(target, [PROTOCOL])
            around = any(
                connection.muxed_conn is stream.muxed_conn and is_relayed(connection)
                for connection in self._connections(peer) or ()
            )
            if not around or self._all_relayed(peer):
                return stream, around
            await stream.reset()
        raise PeerUnreachable("no stream on the direct connection")

    def _all_relayed(self, peer: PeerId) -> bool:
        return all(is_relayed(connection) for connection in self._connections(peer) or ())

    async def _dial(self, peer: PeerId, target: Any) -> None:
        """Connect, one address after another: the library itself stays with the ones it heard first."""
        import trio
        from libp2p.peer.peerinfo import PeerInfo
        from multiaddr import Multiaddr

        addresses = sorted(self._hints.of(peer), key=lambda address: CIRCUIT in address)
        for address in addresses:
            if self._connections(peer):
                return
            try:
                self._host.get_peerstore().clear_addrs(target)
                with trio.fail_after(self.timeouts.dial / len(addresses)):
                    if CIRCUIT in address:
                        await self._circuits.call(address)
                    else:
                        await self._host.connect(PeerInfo(target, [Multiaddr(address)]))
            except Exception:
                if address == addresses[-1]:
                    raise

    async def _read(self, stream: Any) -> None:
        """Frames of a stream that another opened."""
        import trio

        peer = peer_of(stream.muxed_conn.peer_id)
        held = bytearray()
        try:
            while peer is not None:
                while len(held) >= HEAD:
                    size = int.from_bytes(held[:HEAD], "big")
                    if size > self.max_frame:
                        self.stats["reject:oversize"] += 1
                        await stream.reset()
                        return
                    if len(held) < HEAD + size:
                        break
                    self._loop.call_soon(self._hear, peer, bytes(held[HEAD : HEAD + size]))
                    del held[: HEAD + size]
                with trio.fail_after(self.timeouts.stall if held else float("inf")):
                    more = await stream.read(AT_ONCE)
                if not more:
                    break
                held += more
            if peer is None:
                self.stats["reject:key"] += 1
        except Exception as error:
            self.stats["streams lost"] += 1
            log.debug("a stream of %s ended with %r", (peer or "?")[:8], error)
        if held:
            self.stats["reject:truncated"] += 1
        with contextlib.suppress(Exception):
            await stream.close()

    def _hear(self, peer: PeerId, frame: bytes) -> None:
        if not self._closed:
            self._frame(peer, frame)

    def _ends(self, peer: PeerId) -> None:
        """On trio's side."""
        self._loop.call_soon(self._disconnected, peer)

    def _disconnected(self, peer: PeerId) -> None:
        way = self._ways.get(peer)
        if way is not None:
            self._guest.soon(way.scope.cancel)
        if not self._closed:
            self._lost(peer)


def _nobody(*_: Any) -> None:
    """Hears what nobody listens to."""
