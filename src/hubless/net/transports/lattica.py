"""Frames over the lattica SDK (libp2p in Rust): QUIC and TCP, relays, and holes punched through address translators.

Only its calls of bytes are used: its convenience layer runs code that peers send. A call brings frames and is answered
empty at once; what they ask for comes by a call the other way. There is one call to a peer at a time, because they
overtake each other; frames that come up meanwhile go together in the next. The SDK runs handlers one at a time inside
its own loop, so ours does no more than hand over to asyncio. It does not say who called: links prove nobody here, and
Network signs every frame.

The SDK contacts two public STUN hosts whenever it starts, which cannot be turned off. It exists for Linux on x86-64.
Seen with 1.0.21: it takes addresses at the start only; a peer is found later if both know a third one. What it answers
without a future (``connect``, ``get_visible_maddrs``) waits for its loop with Python's lock held: when that loop waits
for the lock, to run a handler, the process hangs for good. So after the start nothing but ``call`` is called, and a
closed node is kept for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity, is_peer_id
from hubless.net.policy import LIMITS, MIB, TIMEOUTS, Limits, Timeouts
from hubless.net.transports.framing import LENGTH
from hubless.net.transports.libp2p_names import base58_id
from hubless.net.transports.real_time import RealTime
from hubless.net.transports.transport import FrameHandler, LostHandler, PeerId, Reach

log = logging.getLogger(__name__)
CALL = "HublessFrames.take"
JOINED = MIB  # bytes from which on no frame joins a call
LOOK = 0.05  # seconds between two attempts to call a peer that is waited for
KEY_FILE = bytes.fromhex("08011240")  # libp2p's protobuf of an Ed25519 key pair: seed, then public key
FAILURES = (ValueError, RuntimeError, OSError)  # what the SDK raises when a call fails
_closed: deque[Any] = deque(maxlen=8)


class Outbox:
    """Frames to one peer that wait; ``size`` is their bytes and those of the call that is under way."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.size = 0
        self.calling = False
        self.room = asyncio.Event()

    def take(self) -> tuple[bytes, int]:
        """What the next call carries, lengths before frames, and how many frames that is."""
        parts, size, count = [], 0, 0
        while self.frames and size < JOINED:
            frame = self.frames.popleft()
            parts += [LENGTH.pack(len(frame)), frame]
            size += len(frame)
            count += 1
        return b"".join(parts), count


class HublessFrames:
    """The service that others call; the SDK knows it by the name of its class."""

    _rpc_methods = ("take",)
    _stream_methods: tuple[str, ...] = ()
    _stream_iter_methods: tuple[str, ...] = ()

    def __init__(self, taken: Callable[[bytes], None]) -> None:
        self._taken = taken

    def get_service_name(self) -> str:
        """As it is called."""
        return type(self).__name__

    def get_methods(self) -> list[str]:
        """What can be called."""
        return list(self._rpc_methods)

    def get_stream_methods(self) -> list[str]:
        """Nothing is streamed."""
        return []

    def _handle_take(self, data: bytes) -> bytes:
        """In a thread of the SDK, which nothing else can use meanwhile."""
        self._taken(bytes(data))
        return b""


class LatticaTransport(RealTime):
    """Frames over the lattica SDK; a Transport. Needs the extra ``lattica``.

    host, port: where to listen, on TCP and QUIC; port 0 is any free one
    bootstraps: addresses ``/ip4/.../tcp/.../p2p/...`` of peers to connect to at the start
    relays:     addresses of libp2p relays, for peers behind address translators
    stats:      ``drop:<reason>`` of frames that were to be sent or could not be taken
    """

    authenticated = False

    def __init__(
        self,
        identity: Identity,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        bootstraps: Sequence[str] = (),
        relays: Sequence[str] = (),
        timeouts: Timeouts = TIMEOUTS,
        limits: Limits = LIMITS,
    ) -> None:
        try:
            self._sdk = importlib.import_module("lattica_python_core").LatticaSDK
        except ImportError:
            raise ConfigError(
                "transport = lattica: the extra lattica is not installed (pip install 'hubless[lattica]')"
            ) from None
        self.identity, self.peer_id = identity, identity.peer_id
        self.host, self.port = host, port
        self.bootstraps, self.relays = list(bootstraps), list(relays)
        self.timeouts, self.limits = timeouts, limits
        self.max_frame = limits.frame
        self.stats: Counter[str] = Counter()
        self._frames: list[FrameHandler] = []
        self._losses: list[LostHandler] = []
        self._node: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._clients: dict[PeerId, Any] = {}  # peers that are connected
        self._boxes: dict[PeerId, Outbox] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._taking = 0  # bytes that were taken and not heard yet

    # Transport

    async def start(self) -> None:
        """Listen, and connect to the bootstraps. Raises ConfigError when the SDK does not start."""
        self._loop = asyncio.get_running_loop()
        self.port = self.port or _free_port(self.host)
        with tempfile.TemporaryDirectory(prefix="hubless-") as folder:  # a folder of its owner's; the SDK reads it once
            (Path(folder) / "p2p.key").write_bytes(
                KEY_FILE + self.identity.key.private_bytes_raw() + self.identity.public
            )
            config: dict[str, Any] = {
                "listen_addrs": [self._at("tcp"), self._at("udp") + "/quic-v1"],
                "key_path": folder,
                "with_mdns": False,
                "with_upnp": False,
            }
            # a relay that is dialled as a bootstrap too gives no slot: the SDK drops the later of two dials to a peer
            if others := [address for address in self.bootstraps if address not in self.relays]:
                config["bootstrap_nodes"] = others
            if self.relays:
                config |= {"relay_servers": self.relays, "with_autonat": True, "with_dcutr": True}
            try:
                self._node = await asyncio.to_thread(self._sdk, config)
            except Exception as error:
                raise ConfigError(f"lattica.listen = {self.host}:{self.port}: {_first_line(error)}") from None
        if self._node.peer_id() != base58_id(self.peer_id):
            raise ConfigError(f"lattica.identity = {self.peer_id[:8]}: the SDK did not take the key")
        self._node.register_service(HublessFrames(self._taken))
        self._spawn(self._watch())

    async def close(self) -> None:
        """Stop; what is on its way is lost."""
        node, self._node, self._loop = self._node, None, None
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self.timeouts.close)
        for box in self._boxes.values():
            box.room.set()
        self._clients.clear()
        if node is not None:
            node.close()  # does not wait: handlers may still run, for which letting go of it now would wait for ever
            _closed.append(node)

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Connect if needed and wait for room. Raises PeerUnreachable."""
        self._permit(peer)
        if peer not in self._clients:
            await self._find(peer)
        box = self._box(peer)
        while box.size > self.limits.buffer and peer in self._clients:
            box.room.clear()
            await box.room.wait()
        if peer not in self._clients:
            raise PeerUnreachable(f"peer {peer[:8]}: the link was lost")

    def send(self, peer: PeerId, frame: bytes) -> None:
        """Send when the peer is connected, which is tried. Raises FrameTooLarge, PeerUnreachable."""
        self._permit(peer)
        size = len(frame)
        if size > self.max_frame:
            raise FrameTooLarge(f"a frame of {size:,} bytes: at most {self.max_frame:,}")
        box = self._box(peer)
        if box.size > self.limits.backlog:
            self.stats["drop:backlog"] += 1
            return
        box.frames.append(frame)
        box.size += size
        if not box.calling:
            box.calling = True
            self._spawn(self._empty(peer, box))

    def on_frame(self, handler: FrameHandler) -> None:
        """Who hears frames; from whom, the link does not prove."""
        self._frames.append(handler)

    def on_lost(self, handler: LostHandler) -> None:
        """Who hears that a peer is no longer connected."""
        self._losses.append(handler)

    def add_hint(self, peer: PeerId, addresses: list[str]) -> None:
        """Before the start: addresses to connect to then. Later they are of no use, as the SDK takes none."""
        if self._node is None:
            self.bootstraps += [address for address in addresses if address not in self.bootstraps]

    def addresses(self) -> list[str]:
        """Where this peer listens. Where others see it they know: it is never asked of the SDK (see above)."""
        own = f"/p2p/{base58_id(self.peer_id)}"
        return [self._at("tcp") + own, self._at("udp") + "/quic-v1" + own]

    def reach(self, peer: PeerId) -> Reach:
        """Direct to whom is connected: the SDK makes no calls over relays."""
        return "direct" if peer in self._clients else "none"

    # out

    def _permit(self, peer: PeerId) -> None:
        if self._node is None:
            raise PeerUnreachable("this node is closed, or has not started")
        if not is_peer_id(peer) or peer == self.peer_id:
            raise PeerUnreachable(f"peer {peer[:8]!r}: not the id of another peer")

    def _box(self, peer: PeerId) -> Outbox:
        if peer not in self._boxes:
            self._boxes[peer] = Outbox()
        return self._boxes[peer]

    async def _find(self, peer: PeerId) -> None:
        """Wait until a peer answers; a call connects to it first. Raises PeerUnreachable."""
        node, name = self._node, base58_id(peer)
        client = node.get_client(name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timeouts.dial):
                while self._node is node:
                    with contextlib.suppress(*FAILURES):
                        await client.call(CALL, b"")
                        self._clients[peer] = client
                        return
                    await asyncio.sleep(LOOK)
        raise PeerUnreachable(f"peer {peer[:8]}: does not answer, or nobody who is connected knows where it is")

    async def _empty(self, peer: PeerId, box: Outbox) -> None:
        """Call until no frame waits."""
        try:
            while box.frames and self._node is not None:
                await asyncio.sleep(0)  # what else is sent in this turn of the loop goes along
                body, count = box.take()
                try:
                    if peer not in self._clients:
                        await self._find(peer)
                    await self._call(peer, body)
                except (PeerUnreachable, TimeoutError, *FAILURES):
                    self.stats["drop:unreachable"] += count
                    self._lose(peer)
                box.size -= len(body) - LENGTH.size * count
                box.room.set()
        finally:
            box.calling = False

    async def _call(self, peer: PeerId, body: bytes) -> None:
        answer = self._clients[peer].call(CALL, body)
        async with asyncio.timeout(self.timeouts.request):
            await answer

    async def _watch(self) -> None:
        """Find out who is no longer there: the SDK does not tell, and goes on listing peers that are gone."""
        while self._node is not None:
            await asyncio.sleep(self.timeouts.heartbeat)
            await asyncio.gather(*(self._probe(peer) for peer in self._clients))

    async def _probe(self, peer: PeerId) -> None:
        try:
            async with asyncio.timeout(self.timeouts.heartbeat * self.timeouts.suspect):
                await self._clients[peer].call(CALL, b"")
        except (TimeoutError, *FAILURES):
            self._lose(peer)

    def _lose(self, peer: PeerId) -> None:
        if self._clients.pop(peer, None) is not None and self._node is not None:
            self._box(peer).room.set()
            for handler in self._losses:
                handler(peer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done))

    # in

    def _taken(self, body: bytes) -> None:
        """In a thread of the SDK: hand over and return."""
        loop = self._loop
        if loop is None or not body:  # a probe
            return
        if self._taking > self.limits.backlog:
            self.stats["drop:backlog"] += 1
            return
        self._taking += len(body)
        try:
            loop.call_soon_threadsafe(self._hear, body)
        except RuntimeError:  # the loop has ended
            self._loop = None

    def _hear(self, body: bytes) -> None:
        self._taking -= len(body)
        begin = 0
        while self._node is not None and begin < len(body):
            head = body[begin : begin + LENGTH.size]
            begin, end = begin + LENGTH.size, begin + LENGTH.size + int.from_bytes(head, "big")
            if len(head) < LENGTH.size or end > len(body) or end - begin > self.max_frame:
                self.stats["reject:malformed"] += 1
                return
            for handler in self._frames:
                try:
                    handler(None, body[begin:end])
                except Exception:
                    self.stats["failed handlers"] += 1
                    log.exception("a handler of frames failed")
            begin = end

    def _at(self, protocol: str) -> str:
        return f"/ip{6 if ':' in self.host else 4}/{self.host}/{protocol}/{self.port}"


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
