"""A stranger with a key of its own that sends junk to every node: to see that nodes drop it, count it and go on."""

from __future__ import annotations

import asyncio
import contextlib
import random

import msgspec

from hubless.errors import NetworkError
from hubless.learn.node.group import HELLO, Group
from hubless.learn.node.node import REPORT, ROWS
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.tcp import TcpTransport

PAUSE = 0.02  # seconds between two volleys
SIZES = (0, 1, 10, 100, 1000, 10_000)


class Stranger:
    """Floods whoever a group has: bytes that are no frames, rows that nobody expects, hellos of another recipe."""

    def __init__(self, group: Group, seed: int = 0) -> None:
        self.group = group
        self.identity = Identity()
        self.transport = TcpTransport(self.identity)
        self.net = Network(self.transport, self.identity)
        self.rng = random.Random(f"stranger {seed}")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin."""
        await self.net.start()
        self._task = self.net.spawn(self._flood(), "flood")

    async def close(self) -> None:
        """End."""
        await self.net.close()

    async def _flood(self) -> None:
        while True:
            for key in self.group.others():
                self.net.introduce(key, self.group.known[key].member.addresses)
                with contextlib.suppress(NetworkError):
                    await self._volley(key)
            await self.net.sleep(PAUSE)

    async def _volley(self, key: str) -> None:
        await self.net.ready(key)
        for size in SIZES:
            self.transport.send(key, self.rng.randbytes(size))
        for proto in (f"rows/{ROWS}", HELLO, REPORT, "nobody/serves/this"):
            self.net.send(key, proto, self.rng.randbytes(100))
        row = [self.rng.randrange(50), 0, self.rng.randbytes(1000), b""]
        self.net.send(key, f"rows/{ROWS}", msgspec.msgpack.encode(row))
