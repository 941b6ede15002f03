"""One of several processes that try the network over TCP; ``processes`` starts them and speaks with each.

It prints a line with its address, reads one with everybody's, does each operation until it is right or the time is
over, prints what was right, and ends with its next line of input. Lines are JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from hubless.errors import NetworkError
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import MIB
from hubless.net.serving import Context
from hubless.net.transports.tcp import TcpTransport

PUT, PUBLISH, REQUEST, BLOB, MERGE = "put and get", "publish", "request", "blob", "CRDT merge"
OPERATIONS = (PUT, PUBLISH, REQUEST, BLOB, MERGE)
PAUSE = 0.1  # seconds between two looks


class Member:
    """A process's part in the operations; all ``count`` processes have one."""

    def __init__(self, net: Network, index: int, count: int, seed: int, megabytes: float) -> None:
        self.net, self.index, self.count = net, index, count
        self.everyone = [Identity.derived(seed, i).peer_id for i in range(count)]
        self.data = random.Random(f"{seed}/blob").randbytes(int(megabytes * MIB))
        self.heard: dict[str, bytes] = {}
        self.store = CrdtStore(net, "trial", lambda: self.everyone, every=PAUSE)
        net.serve("trial/double", self._double)
        net.subscribe("trial", self._hear)

    async def put_and_get(self) -> bool:
        """Everybody's record is read as it was put."""
        for i, peer in enumerate(self.everyone):
            records = await self.net.get(b"key %d" % i)
            if [(record.publisher, record.value) for record in records] != [(peer, b"value %d" % i)]:
                return False
        return True

    async def publish(self) -> bool:
        """Everybody's message came, and says who it is from."""
        return self.heard == {peer: b"from %d" % i for i, peer in enumerate(self.everyone)}

    async def request(self) -> bool:
        """Everybody answers."""
        answers = [await self.net.request(peer, "trial/double", b"ab") for peer in self.everyone]
        return answers == [b"abab"] * self.count

    async def blob(self) -> bool:
        """The first process's blob is here, byte for byte."""
        named = await self.net.get(b"blob")
        return bool(named) and await self.net.blob_get(named[0].value) == self.data

    async def merge(self) -> bool:
        """Everybody's writes are here."""
        total, names = self.store.value("sum", "counter"), self.store.value("names", "set")
        return bool(total == self.count * (self.count + 1) // 2 and names == sorted(self.everyone))

    async def say(self) -> None:
        """What the others wait for."""
        await self.net.dht.join(self.everyone)
        await self.net.put(b"key %d" % self.index, b"value %d" % self.index, 3600.0)
        self.net.publish("trial", b"from %d" % self.index)
        self.store.incr("sum", self.index + 1)
        self.store.add("names", self.net.peer_id)
        if self.index == 0:
            await self.net.put(b"blob", await self.net.blob_put(self.data), 3600.0)

    def _hear(self, ctx: Context, body: bytes) -> None:
        self.heard[ctx.src] = body

    @staticmethod
    def _double(ctx: Context, body: bytes) -> bytes:
        return body + body


async def _until(right: Callable[[], Awaitable[bool]]) -> None:
    while True:
        try:
            if await right():
                return
        except NetworkError:  # not yet
            pass
        await asyncio.sleep(PAUSE)


async def _run(given: dict[str, Any]) -> None:
    identity = Identity.derived(given["seed"], given["index"])
    async with Network(TcpTransport(identity), identity, seed=given["seed"]) as net:
        member = Member(net, given["index"], given["count"], given["seed"], given["megabytes"])
        _tell({"peer": net.peer_id, "addresses": net.transport.addresses()})
        everybody = json.loads(await net.run(sys.stdin.readline))
        for peer, addresses in everybody["peers"].items():
            net.introduce(peer, addresses)
        checks = (member.put_and_get, member.publish, member.request, member.blob, member.merge)
        said = net.spawn(_until(_once(member.say)), "say")
        tasks = [net.spawn(_until(check), name) for name, check in zip(OPERATIONS, checks, strict=True)]
        done, _ = await asyncio.wait([said, *tasks], timeout=everybody["seconds"])
        right = {name: task in done for name, task in zip(OPERATIONS, tasks, strict=True)}
        _tell({"right": right, "digest": member.store.digest() if right[MERGE] else ""})
        await net.run(sys.stdin.readline)  # others may still need this one


def _once(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[bool]]:
    async def done() -> bool:
        await work()
        return True

    return done


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.argv[1])))
