"""One blob being fetched: which piece from which peer, and what becomes of a source that fails.

A source gets one request at first, and up to ``Limits.flight`` at a time while it answers quickly; every source has
its first before any has its second. Pieces that few sources have go first. Wrong bytes exclude their source, and what
one source did not give is asked of another.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hubless.errors import IntegrityError, NetworkError, PeerBusy, PeerUnreachable, RemoteError, RequestTimeout
from hubless.net.services.pieces import HAVE, PIECE, Manifest, digest, read_manifest
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.services.blobs import Blobs

FAILURES = 3  # in a row, after which a source is given up
LONGEST = 32.0  # seconds between two looks for more sources


@dataclass
class Source:
    """A peer that may have pieces.

    have:     a bit for each piece
    window:   requests that it may have at a time, ``flying`` are under way
    patience: seconds that a request may take
    later:    when it may be asked for pieces again; ``polled`` for what it has
    """

    peer: PeerId
    patience: float
    have: int = 0
    window: int = 1
    flying: int = 0
    failures: int = 0
    later: float = 0.0
    polled: float = 0.0


class Fetch:
    """A blob under way; ``run`` once."""

    def __init__(self, blobs: Blobs, cid: bytes, peers: list[PeerId] | None, timeout: float, provide: bool) -> None:
        self.blobs, self.net, self.cid, self.provide = blobs, blobs.net, cid, provide
        self.end = self.net.now() + timeout
        self.given = peers
        self.sources: dict[PeerId, Source] = {}
        self.dropped: dict[PeerId, str] = {}  # and why
        self.wrong = ""  # who sent something else, and for which piece
        self.parts: dict[int, bytes] = {}  # by the first index of their hash
        self.first: dict[bytes, int] = {}
        self.rank: dict[int, tuple[int, int]] = {}  # missing pieces: sources that have it, and a lot
        self.asked: dict[int, dict[PeerId, float]] = {}  # pieces under way: of whom, since when
        self.news = asyncio.Event()
        self.offers = self.looking = False
        self.pause = self.look_again = 0.0
        self.tasks: dict[asyncio.Task[None], None] = {}

    async def run(self) -> bytes:
        """The blob. Raises IntegrityError, PeerUnreachable, RequestTimeout."""
        try:
            manifest = self.blobs.manifest(self.cid) or await self._manifest()
            return await self._blob(manifest)
        finally:
            for task in self.tasks:
                task.cancel()

    async def _manifest(self) -> Manifest:
        await self._look()
        while True:
            for source in self.net.rng.sample(list(self.sources.values()), len(self.sources)):
                raw = await self._request(source, PIECE, self.cid)
                if not raw:
                    continue
                if digest(raw) == self.cid:
                    self.blobs.pieces.put(raw)
                    return read_manifest(raw, self.net.limits)
                self._refuse(source, "the manifest")
            if not self.sources:
                raise self._lost("its manifest")
            await self._wait("its manifest")

    async def _blob(self, manifest: Manifest) -> bytes:
        lots = self.net.rng.sample(range(len(manifest.hashes)), len(manifest.hashes))
        for index, name in enumerate(manifest.hashes):
            if self.first.setdefault(name, index) == index:
                kept = self.blobs.pieces.get(name)
                if kept is None:
                    self.rank[index] = (0, lots[index])
                else:
                    self.parts[index] = kept
        if self.rank and not self.sources:
            await self._look()
        while self.rank:
            if self.offers and self.provide:
                self.provide = False
                self.net.spawn(self.blobs.offer(self.cid), "provide")
            self._fill(manifest)
            if not self.sources and not self.looking:
                if self.given is not None or self.net.now() < self.look_again:
                    raise self._lost(f"piece {min(self.rank)}")
                await self._look()
                continue
            await self._wait(f"{len(self.rank)} of {len(self.first)} pieces")
        blob = b"".join([self.parts[self.first[name]] for name in manifest.hashes])
        if len(blob) != manifest.size:
            raise IntegrityError(f"{self._name}: a manifest of {manifest.size} bytes for {len(blob)}")
        return blob

    def _fill(self, manifest: Manifest) -> None:
        """Start whatever may be started now."""
        now, everything = self.net.now(), (1 << len(manifest.hashes)) - 1
        if self.given is None and not self.looking and now >= self.look_again:
            self._start(self._look())
        for source in self.sources.values():
            if source.have != everything and now >= source.polled:
                source.polled = math.inf
                self._start(self._poll(source, everything))
        for slot in range(self.net.limits.flight):
            for source in self.sources.values():
                if source.flying == slot < source.window and now >= source.later:
                    index = self._choose(source, now)
                    if index is not None:
                        source.flying += 1
                        self.asked.setdefault(index, {})[source.peer] = now
                        task = self._start(self._take(source, index, manifest))
                        task.add_done_callback(partial(self._landed, source, index))

    def _choose(self, source: Source, now: float) -> int | None:
        """A piece that is not under way; or else one for which another source takes long."""
        wanted = [index for index in self.rank if source.have >> index & 1]
        free = [index for index in wanted if index not in self.asked]
        if free:
            return min(free, key=self.rank.__getitem__)
        long = now - self.net.timeouts.chunk / 4
        slow = [
            index
            for index in wanted
            if source.peer not in self.asked[index] and max(self.asked[index].values()) <= long
        ]
        return min(slow, key=self.rank.__getitem__, default=None)

    async def _take(self, source: Source, index: int, manifest: Manifest) -> None:
        name, began = manifest.hashes[index], self.net.now()
        data = await self._request(source, PIECE, name)
        if data is None or index not in self.rank:
            return
        if digest(data) != name:
            if data:
                self._refuse(source, f"piece {index}")
            else:
                source.have &= ~(1 << index)
            return
        quick = self.net.now() - began <= self.net.timeouts.step
        source.window = min(source.window + 1, self.net.limits.flight) if quick else max(source.window - 1, 1)
        source.patience = self.net.timeouts.chunk
        del self.rank[index]
        self.parts[index] = data
        self.offers |= self.blobs.pieces.put(data) is not None

    def _landed(self, source: Source, index: int, _: asyncio.Task[None]) -> None:
        source.flying -= 1
        self.asked[index].pop(source.peer, None)
        if not self.asked[index]:
            del self.asked[index]

    async def _poll(self, source: Source, everything: int) -> None:
        """Ask a source what it has."""
        bits = await self._request(source, HAVE, self.cid)
        source.polled = self.net.now() + self.net.timeouts.poll
        if bits is None:
            return
        have = int.from_bytes(bits[: everything.bit_length() // 8 + 1], "little") & everything
        for index in self.rank:
            count, lot = self.rank[index]
            self.rank[index] = (count + (have >> index & 1) - (source.have >> index & 1), lot)
        source.have = have

    async def _look(self) -> None:
        """More sources."""
        self.looking = True
        try:
            found = self.given if self.given is not None else await self.blobs.providers(self.cid)
            for peer in found:
                if peer not in self.sources and peer not in self.dropped and peer != self.net.peer_id:
                    self.sources[peer] = Source(peer, self.net.timeouts.chunk)
        finally:
            self.looking = False
            self.pause = min(max(2 * self.pause, 2 * self.net.timeouts.poll), LONGEST)
            self.look_again = self.net.now() + self.pause

    async def _request(self, source: Source, proto: str, body: bytes) -> bytes | None:
        """An answer of a source; None, and it is asked later or no more, when there is none."""
        now, poll = self.net.now(), self.net.timeouts.poll
        timeout = min(source.patience, max(self.end - now, poll))
        expects = self.net.limits.chunk if proto == PIECE else 0
        try:
            answer = await self.net.request(source.peer, proto, body, timeout, expects=expects)
        except PeerBusy:
            source.later = self.net.now() + poll * (0.5 + self.net.rng.random())
        except RemoteError as error:
            self._drop(source, str(error))
        except PeerUnreachable as error:
            if self.net.now() >= source.later:  # of several that fail together one counts
                source.failures += 1
                source.later = self.net.now() + poll
            if isinstance(error, RequestTimeout):
                source.window, source.patience = 1, 2 * source.patience
            if source.failures >= FAILURES:
                self._drop(source, str(error))
        except NetworkError as error:
            self._drop(source, str(error))
        else:
            source.failures = 0
            if not answer and body == self.cid:
                self._drop(source, "does not have it")
            return answer
        return None

    def _refuse(self, source: Source, what: str) -> None:
        self.net.stats["reject:piece"] += 1
        self.wrong = f"{source.peer[:8]} sent something else for {what}"
        self._drop(source, self.wrong)

    def _drop(self, source: Source, why: str) -> None:
        self.dropped[source.peer] = why
        self.sources.pop(source.peer, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.net.spawn(work, "fetch")
        self.tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.pop(task, None)
        self.news.set()

    async def _wait(self, what: str) -> None:
        """Until something has happened. Raises RequestTimeout at the end of the blob's time."""
        if self.net.now() >= self.end:
            raise RequestTimeout(f"{self._name}: {what} still missing; {self._reasons() or 'its sources are slow'}")
        self.news.clear()
        try:
            await asyncio.wait_for(self.news.wait(), self.net.timeouts.poll)
        except TimeoutError:
            return

    @property
    def _name(self) -> str:
        return f"blob {self.cid[:4].hex()}"

    def _reasons(self) -> str:
        return "; ".join(f"{peer[:8]}: {why}" for peer, why in list(self.dropped.items())[:4])

    def _lost(self, what: str) -> NetworkError:
        if self.wrong:
            return IntegrityError(f"{self._name}: {self.wrong}, and no other source is left")
        return PeerUnreachable(f"{self._name}: no source of {what}; {self._reasons() or 'nobody offers it'}")
