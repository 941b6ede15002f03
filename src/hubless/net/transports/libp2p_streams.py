"""Streams of libp2p as a transport needs them: frames that wait for one, and what the library tells of connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from hubless.errors import PeerUnreachable
from hubless.net.transports.libp2p_names import peer_of
from hubless.net.transports.transport import PeerId

HEAD = 4  # bytes of a frame's length, before it
AT_ONCE = 64 << 10  # bytes of small frames that are written together


class Way:
    """The outgoing stream to one peer: frames that wait for it, and who waits for room."""

    def __init__(self, trio: Any) -> None:
        self.queue: deque[bytes] = deque()
        self.waiting = 0
        self.more = trio.Event()
        self.scope = trio.CancelScope()
        self.open = False
        self.roomy: list[asyncio.Future[None]] = []

    def fail(self, error: PeerUnreachable) -> None:
        """Tell those who wait for room that there is none."""
        waiting, self.roomy = self.roomy, []
        for room in waiting:
            if not room.done():
                room.set_exception(error)

    def welcome(self) -> None:
        """Tell those who wait for room that there is some."""
        waiting, self.roomy = self.roomy, []
        for room in waiting:
            if not room.done():
                room.set_result(None)

    async def write_some(self, stream: Any, buffer: int, stall: float) -> None:
        """Frames that wait: one large, or several small ones; ``stall`` seconds for each ``AT_ONCE`` bytes."""
        import trio

        parts: list[bytes] = []
        size = 0
        while self.queue and (not parts or size + len(self.queue[0]) <= AT_ONCE):
            frame = self.queue.popleft()
            parts += [len(frame).to_bytes(HEAD, "big"), frame]
            size += len(frame)
        with trio.fail_after(stall * (1 + size / AT_ONCE)):
            await stream.write(b"".join(parts))
        self.waiting -= size
        if self.waiting <= buffer:
            self.welcome()


class Notifee:
    """Told of connections; ``lost`` hears, on trio's side, of a peer whose last one has ended."""

    def __init__(self, lost: Callable[[PeerId], None]) -> None:
        self.lost = lost

    async def disconnected(self, network: Any, connection: Any) -> None:
        """The last connection to a peer?"""
        peer = peer_of(connection.muxed_conn.peer_id)
        others = [other for other in network.connections.get(connection.muxed_conn.peer_id, ()) if other != connection]
        if peer is not None and not others:
            self.lost(peer)

    async def connected(self, network: Any, connection: Any) -> None:
        """Nothing to do."""

    async def opened_stream(self, network: Any, stream: Any) -> None:
        """Nothing to do."""

    async def closed_stream(self, network: Any, stream: Any) -> None:
        """Nothing to do."""

    async def listen(self, network: Any, multiaddr: Any) -> None:
        """Nothing to do."""

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        """Nothing to do."""
