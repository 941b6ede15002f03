"""The baseline of a trial: the whole document is one value, and that of the latest write overwrites the other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hubless.errors import NetworkError
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

Whole = tuple[tuple[float, str], list[int], dict[str, int], int]  # stamp, items, map, count


class Overwritten:
    """A replica; ``every`` so many seconds it has the same as a random member, the later of both documents.

    stamp: when the last write arrived, at whom
    """

    def __init__(self, net: Network, members: Sequence[PeerId], every: float) -> None:
        self.net, self.members, self.every = net, sorted(set(members) - {net.peer_id}), every
        self.items: dict[int, None] = {}
        self.map: dict[str, int] = {}
        self.count = 0
        self.stamp = (0.0, "")
        net.serve("whole", self._answer)
        net.spawn(self._anti_entropy(), "whole")

    def add(self, item: int) -> None:
        """Add an item."""
        self.items[item] = None
        self.stamp = (self.net.now(), self.net.peer_id)

    def remove(self, item: int) -> None:
        """Remove an item."""
        self.items.pop(item, None)
        self.stamp = (self.net.now(), self.net.peer_id)

    def set(self, key: str, value: int) -> None:
        """Give a key a value."""
        self.map[key] = value
        self.stamp = (self.net.now(), self.net.peer_id)

    def incr(self, n: int) -> None:
        """Count more."""
        self.count += n
        self.stamp = (self.net.now(), self.net.peer_id)

    def value(self) -> tuple[list[int], dict[str, int], int]:
        """The set, the map, the counter."""
        return sorted(self.items), self.map, self.count

    def digest(self) -> object:
        """Which write the document is of."""
        return self.stamp

    def _write(self) -> bytes:
        return msgspec.msgpack.encode([self.stamp, sorted(self.items), self.map, self.count])

    def _read(self, body: bytes) -> None:
        stamp, items, values, count = msgspec.msgpack.decode(body, type=Whole)
        if stamp > self.stamp:
            self.stamp, self.items, self.map, self.count = stamp, dict.fromkeys(items), values, count

    def _answer(self, ctx: Context, body: bytes) -> bytes:
        self._read(body)
        return self._write()

    async def _anti_entropy(self) -> None:
        due = self.net.now() + self.net.rng.random() * self.every
        while True:
            await self.net.sleep(max(0.0, due - self.net.now()))
            due = max(due + self.every, self.net.now())
            try:
                peer = self.net.rng.choice(self.members)
                self._read(await self.net.request(peer, "whole", self._write(), self.net.timeouts.exchange))
            except NetworkError:
                continue
