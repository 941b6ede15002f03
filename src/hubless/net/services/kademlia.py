"""Kademlia lookups: to the peers nearest to a key in a number of steps that grows with the logarithm of all peers.

Source: Maymounkov and Mazieres, "Kademlia: A Peer-to-peer Information System Based on the XOR Metric", 2002,
section 2.3. Here a step is tried twice before it counts as failed, one failed step removes nobody, and whoever asks
is learned from as well as whoever answers.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec

from hubless.errors import NetworkError, PeerBusy, PeerUnreachable, RequestTimeout
from hubless.net.services import UNREADABLE
from hubless.net.services.routing import BITS, CAPACITY, RoutingTable, place, position
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context

FIND = "hub/dht"
KEY = 32
ALPHA = 3  # steps of one lookup at a time
NARROW, WIDE, MANY = 8, 20, 200  # width of a lookup, and above MANY peers; the paper's k

Address = Annotated[str, msgspec.Meta(max_length=128)]
Addresses = Annotated[list[Address], msgspec.Meta(max_length=8)]
Key = Annotated[bytes, msgspec.Meta(min_length=KEY, max_length=KEY)]


class Find(msgspec.Struct, array_like=True):
    """Who is near ``target``; with ``key``, what is kept under it, too. ``addresses`` are the asker's own."""

    target: Key
    key: bytes | None
    addresses: Addresses


class Found(msgspec.Struct, array_like=True):
    """The nearest contacts with their addresses, and signed records."""

    contacts: Annotated[list[tuple[Key, Addresses]], msgspec.Meta(max_length=CAPACITY)]
    records: list[bytes]


_find, _found = msgspec.msgpack.Decoder(Find), msgspec.msgpack.Decoder(Found)
_encode = msgspec.msgpack.Encoder().encode


@dataclass
class Lookup:
    """What a lookup found.

    closest: peers that answered, nearest first
    rounds:  answers that had to be awaited one after another
    asked:   steps taken, answered or not
    """

    closest: list[PeerId] = field(default_factory=list)
    rounds: int = 0
    asked: int = 0


class Kademlia:
    """One peer's part of the DHT. ``width`` fixes how many of the nearest a lookup wants; else it follows the size."""

    def __init__(self, net: Network, *, width: int | None = None) -> None:
        self.net = net
        self.table = RoutingTable(net.peer_id)
        self.fixed = width
        self.kept: Callable[[bytes], list[bytes]] = lambda key: []  # what is kept here under a key
        net.serve(FIND, self._answer)

    @property
    def width(self) -> int:
        """How many of the nearest peers a lookup wants: the paper's k."""
        return self.fixed or (WIDE if self.table.estimate() > MANY else NARROW)

    async def join(self, peers: Iterable[PeerId], timeout: float | None = None) -> None:
        """Enter through any of ``peers``: ask them in turn until one answers, then look where one's neighbours are.

        Raises PeerUnreachable when nobody answers for ``timeout`` seconds (``Timeouts.join``).
        """
        waits, doors = self.net.timeouts, [peer for peer in peers if peer != self.net.peer_id]
        end, pause, me = self.net.now() + (timeout or waits.join), waits.step, position(self.net.peer_id)
        while doors and not any([await self._ask(door, self._question(me)) for door in doors]):
            if self.net.now() + pause > end:
                raise PeerUnreachable(f"no answer from any of {len(doors)} peers to join through")
            await self.net.sleep(pause * (0.5 + self.net.rng.random()))
            pause = min(2 * pause, waits.request)
        await self.lookup(me)
        await self.refresh()

    async def refresh(self) -> None:
        """Look up a random position in every bucket that is further away than the nearest contact."""
        me = position(self.net.peer_id)
        for shared in range(self.table.depth()):
            flipped = 1 << (BITS - 1 - shared)  # the first bit in which members of that bucket differ
            await self.lookup(((me ^ flipped) & ~(flipped - 1)) | self.net.rng.randrange(flipped))

    async def lookup(
        self,
        target: int,
        *,
        key: bytes | None = None,
        width: int | None = None,
        enough: Callable[[PeerId, list[bytes]], bool] | None = None,
    ) -> Lookup:
        """The peers nearest to ``target``, oneself excepted; who has not joined asks those it was introduced to.

        With ``key`` every peer is asked for its records, too; the lookup ends early when ``enough`` says so of a
        peer and the records that it sent.
        """
        search = _Search(self, target, key, width or self.width, enough)
        return await search.run()

    async def _ask(self, peer: PeerId, question: bytes) -> Found | None:
        """One step; None when it failed."""
        for timeout in (self.net.timeouts.step, self.net.timeouts.again):
            try:
                answer = await self.net.request(peer, FIND, question, timeout)
                found = _found.decode(answer)
            except RequestTimeout:
                continue
            except PeerBusy:
                return None
            except NetworkError:
                break
            except UNREADABLE:
                self.net.stats["reject:dht answer"] += 1
                break
            self.table.seen(peer)
            return found
        self.table.missed(peer)
        return None

    def _question(self, target: int, key: bytes | None = None) -> bytes:
        return _encode(Find(target.to_bytes(KEY, "big"), key, self.net.transport.addresses()[:8]))

    def _answer(self, ctx: Context, body: bytes) -> bytes:
        try:
            question = _find.decode(body)
        except UNREADABLE:
            self.net.stats["reject:dht question"] += 1
            return b""
        target = int.from_bytes(question.target, "big")
        near = [contact for contact in self.table.contacts(target, self.width + 1) if contact.peer != ctx.src]
        self.table.seen(ctx.src, question.addresses)
        if question.addresses:
            self.net.transport.add_hint(ctx.src, question.addresses)
        contacts = [(contact.key, list(contact.addresses)) for contact in near[: self.width]]
        return _encode(Found(contacts, self.kept(question.key) if question.key else []))

    def hint(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Hearsay on where a peer is, for who does not know; a lie costs a dial, as no other can answer for it."""
        if addresses and self.net.transport.reach(peer) == "none":
            self.net.transport.add_hint(peer, list(addresses))


class _Search:
    """A lookup under way: ``near`` holds all that did not fail, nearest first."""

    def __init__(
        self,
        dht: Kademlia,
        target: int,
        key: bytes | None,
        width: int,
        enough: Callable[[PeerId, list[bytes]], bool] | None,
    ) -> None:
        self.dht, self.target, self.width, self.enough = dht, target, width, enough
        self.question = dht._question(target, key)
        self.near: list[tuple[int, PeerId]] = []
        self.depth: dict[PeerId, int] = {}
        self.asked: dict[PeerId, bool] = {}  # whether it answered
        self.flying: dict[PeerId, asyncio.Task[Found | None]] = {}
        self.over = asyncio.Event()
        spare = max(width, CAPACITY)  # where many are silent, the nearest alone are too few
        doors = dht.table.closest(target, spare) or [info.peer for info in dht.net.peers()]
        for peer in doors:
            self._know(peer, 1)

    async def run(self) -> Lookup:
        self._go_on()
        try:
            await self.over.wait()
        finally:
            self.over.set()
            for task in self.flying.values():
                task.cancel()
        closest = [peer for _, peer in self.near if self.asked.get(peer)]
        rounds = max((self.depth[peer] for peer, answered in self.asked.items() if answered), default=0)
        return Lookup(closest[: self.width], rounds, len(self.asked))

    def _know(self, peer: PeerId, depth: int) -> bool:
        """Whether a candidate is a new one."""
        if peer in self.depth or peer == self.dht.net.peer_id:
            return False
        self.depth[peer] = depth
        insort(self.near, (position(peer) ^ self.target, peer))
        return True

    def _go_on(self) -> None:
        """Keep ALPHA steps in flight to the nearest that were not asked; over when the nearest have answered."""
        for _, peer in self.near[: self.width]:
            if len(self.flying) >= ALPHA:
                return
            if peer not in self.asked:
                try:
                    task = self.dht.net.spawn(self.dht._ask(peer, self.question), "lookup")
                except PeerUnreachable:  # the network has closed
                    self.over.set()
                    return
                self.asked[peer] = False
                self.flying[peer] = task
                task.add_done_callback(partial(self._step, peer))
        if not self.flying:
            self.over.set()

    def _step(self, peer: PeerId, task: asyncio.Task[Found | None]) -> None:
        if self.over.is_set():
            return
        del self.flying[peer]
        if task.cancelled() or task.exception():
            self.over.set()
            return
        found = task.result()
        if found is None:
            self.near.remove((position(peer) ^ self.target, peer))
        else:
            self.asked[peer] = True
            for key, addresses in found.contacts:
                if self._know(key.hex(), self.depth[peer] + 1):
                    self.dht.hint(key.hex(), addresses)
            if self.enough and self.enough(peer, found.records):
                self.over.set()
                return
        self._go_on()


__all__ = ["Kademlia", "Lookup", "place", "position"]
