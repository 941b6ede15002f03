"""Records in the DHT: kept by the peers nearest to their key, written by their publishers alone.

A reader gets every slot of a key and decides whom it believes. At half of its life a record goes once more to those
who are nearest to its key by then (Maymounkov and Mazieres 2002, section 2.5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hubless.errors import ConfigError, NetworkError, RecordRefused, RequestTimeout
from hubless.net.services.kademlia import Kademlia, Lookup
from hubless.net.services.routing import place, position
from hubless.net.services.shelf import Record, Shelf, Slot, check, read, sign
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context

PUT = "hub/put"


class Records:
    """What a peer keeps of the DHT, and its own records in it; ``last`` is the lookup of the last put or get."""

    def __init__(self, net: Network, dht: Kademlia) -> None:
        self.net = net
        self.dht = dht
        self.shelf = Shelf(net.limits)
        self.last = Lookup()
        self._seq = 0
        self._again: dict[tuple[bytes, str], asyncio.Task[None]] = {}
        self._sweeping = False
        dht.kept = lambda key: self.shelf.kept(key, net.now())
        net.serve(PUT, self._take)

    async def put(
        self, key: bytes, value: bytes, ttl: float, subkey: str = "", *, replicas: int = 8, renew: bool = False
    ) -> int:
        """Publish under ``key`` for ``ttl`` seconds; how many of the nearest peers took it, oneself among them.

        At half of ``ttl`` the record goes out once more: as it is, so that it outlives its holders but not its ttl,
        or with ``renew`` as a new one, and so on until ``withdraw``.
        Raises ConfigError for a ttl that is not positive, RecordRefused for what is too long or when no peer took it.
        """
        if not 0 < ttl <= self.net.limits.lifetime:
            raise ConfigError(f"put.ttl = {ttl}: must be positive and at most {self.net.limits.lifetime:.0f} seconds")
        if replicas < 1:
            raise ConfigError(f"put.replicas = {replicas}: must be at least 1")
        self.withdraw(key, subkey)
        raw = self._sign(key, value, ttl, subkey)
        taken = await self._spread(key, raw, replicas)
        again = self._republish(key, raw, replicas, ttl, renew)
        self._again[key, subkey] = self.net.spawn(again, "republish")
        return taken

    def withdraw(self, key: bytes, subkey: str = "") -> None:
        """Let one's own record expire."""
        if task := self._again.pop((key, subkey), None):
            task.cancel()

    async def get(self, key: bytes, *, enough: int = 1) -> list[Record]:
        """The records of every slot of ``key``, sorted by publisher and subkey; none when nobody asked has any.

        ``enough``: how many peers that have some must answer; the newest of each slot counts.
        """
        found: dict[Slot, Record] = {}
        holders: list[PeerId] = []

        def hear(peer: PeerId, answers: Iterable[bytes]) -> bool:
            records = self._good(key, answers)
            for record in records:
                slot = record.publisher, record.subkey
                if slot not in found or found[slot].seq < record.seq:
                    found[slot] = record
            holders.extend([peer] if records else [])
            return len(holders) >= enough

        self.last = Lookup()
        if not hear(self.net.peer_id, self.shelf.kept(key, self.net.now())):
            self.last = await self.dht.lookup(place(key), key=key, enough=hear)
        return [found[slot] for slot in sorted(found)]

    def keep(self, raw: bytes) -> Record:
        """Keep signed bytes for others. Raises RecordRefused with the reason."""
        record = self.shelf.keep(raw, self.net.now())
        if not self._sweeping:
            self._sweeping = True
            self.net.spawn(self._sweep(), "expiry of records")
        return record

    def _good(self, key: bytes, answers: Iterable[bytes]) -> list[Record]:
        """The records among what a peer sent for ``key``; what is none of them is counted."""
        good = []
        for raw in answers:
            try:
                of, record = read(raw, self.net.limits)
            except RecordRefused:
                self.net.stats["reject:record"] += 1
                continue
            if of == key and record.expires > self.net.now():
                good.append(record)
            else:
                self.net.stats["reject:record"] += 1
        return good

    def _sign(self, key: bytes, value: bytes, ttl: float, subkey: str) -> bytes:
        now = self.net.now()
        self._seq = max(self._seq + 1, int(1000 * now))  # also above what a peer said before it was restarted
        record = Record(self.net.peer_id, subkey, value, self._seq, now + ttl)
        check(key, record, self.net.limits)
        return sign(self.net.identity, key, record)

    async def _spread(self, key: bytes, raw: bytes, replicas: int) -> int:
        target = place(key)
        self.last = await self.dht.lookup(target, width=max(replicas, self.dht.width))
        nearest = sorted([*self.last.closest, self.net.peer_id], key=lambda peer: position(peer) ^ target)
        taken, refusals = 0, []
        while nearest and taken < replicas:
            batch, nearest = nearest[: replicas - taken], nearest[replicas - taken :]
            answers = await asyncio.gather(*(self._offer(peer, raw) for peer in batch))
            taken += answers.count("")
            refusals += [f"{peer[:8]}: {answer}" for peer, answer in zip(batch, answers, strict=True) if answer]
        if not taken:
            raise RecordRefused(f"nobody took it; {refusals[0]}")
        return taken

    async def _offer(self, peer: PeerId, raw: bytes) -> str:
        """Why a peer does not keep a record; nothing when it does."""
        if peer == self.net.peer_id:
            return self._kept_or_why(raw)
        why = ""
        for timeout in (self.net.timeouts.step, self.net.timeouts.again):
            try:
                return (await self.net.request(peer, PUT, raw, timeout)).decode(errors="replace")
            except RequestTimeout as error:
                why = str(error)
            except NetworkError as error:
                return str(error)
        return why

    def _kept_or_why(self, raw: bytes) -> str:
        try:
            self.keep(raw)
        except RecordRefused as error:
            self.net.stats["reject:record"] += 1
            return str(error)
        return ""

    def _take(self, ctx: Context, body: bytes) -> bytes:
        return self._kept_or_why(body).encode()

    async def _republish(self, key: bytes, raw: bytes, replicas: int, ttl: float, renew: bool) -> None:
        _, record = read(raw, self.net.limits)
        while True:
            await self.net.sleep(ttl / 2)
            if renew:
                raw = self._sign(key, record.value, ttl, record.subkey)
            try:
                await self._spread(key, raw, replicas)
            except RecordRefused:
                self.net.stats["republish refused"] += 1
            if not renew:
                self._again.pop((key, record.subkey), None)
                return

    async def _sweep(self) -> None:
        while len(self.shelf):
            await self.net.sleep(self.net.timeouts.upkeep)
            self.shelf.sweep(self.net.now())
        self._sweeping = False
