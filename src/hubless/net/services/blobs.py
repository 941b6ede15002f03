"""Blobs by content: cut into pieces, found through records, fetched from many peers at once.

A blob's id is the hash of its manifest, which has the hash of every piece, so whoever knows the id needs to trust
nobody. A provider says so in a record under the id, and who fetches becomes one with its first piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubless.errors import ConfigError, IntegrityError, NetworkError
from hubless.net.services.fetch import Fetch
from hubless.net.services.pieces import HASH, HAVE, PIECE, Manifest, Pieces, cut, read_manifest
from hubless.net.services.records import Records
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context

UPLOADS = 8  # pieces on their way out at a time: more would hold up what else a peer has to say


class Blobs:
    """Blobs that a peer has, offers and fetches; ``pieces`` says where they are kept."""

    def __init__(self, net: Network, records: Records, pieces: Pieces | None = None) -> None:
        self.net = net
        self.records = records
        self.pieces = pieces or Pieces(net.limits.blobs)
        net.serve(PIECE, self._piece, limit=UPLOADS, queue=net.limits.waiting)
        net.serve(HAVE, self._have)

    async def put(self, data: bytes, *, provide: bool = True) -> bytes:
        """Keep a blob and offer it; its id. Raises ConfigError when it is too large or there is no room for it."""
        limits = self.net.limits
        if len(data) > limits.blob:
            raise ConfigError(f"blob of {len(data)} bytes: at most {limits.blob}")
        manifest, parts = await self.net.run(cut, data, limits.chunk)
        names = [self.pieces.put(piece, own=True) for piece in (manifest, *parts)]
        cid = names[0]
        if cid is None or None in names:
            raise ConfigError(f"blob of {len(data)} bytes: blobs.quota = {self.pieces.quota} has no room for it")
        if provide:
            await self.provide(cid)
        return cid

    async def get(
        self, cid: bytes, *, peers: list[PeerId] | None = None, timeout: float | None = None, provide: bool = True
    ) -> bytes:
        """The blob: from ``peers`` alone, or from whoever offers it.

        Raises IntegrityError, with peer and piece, when the last source of a piece sent something else;
        PeerUnreachable when nobody has it; RequestTimeout after ``timeout`` seconds (``Timeouts.blob``).
        """
        if len(cid) != HASH:
            raise ConfigError(f"cid of {len(cid)} bytes: must be {HASH}")
        fetch = Fetch(self, cid, peers, timeout or self.net.timeouts.blob, provide)
        return await fetch.run()

    async def provide(self, cid: bytes) -> None:
        """Offer a blob, until this peer is gone."""
        await self.records.put(cid, b"", self.net.timeouts.provide, self.net.peer_id, renew=True)

    async def providers(self, cid: bytes, *, enough: int = 2) -> list[PeerId]:
        """Who offers a blob, oneself excepted; each says so itself."""
        found = await self.records.get(cid, enough=enough)
        return [r.publisher for r in found if r.subkey == r.publisher != self.net.peer_id]

    def manifest(self, cid: bytes) -> Manifest | None:
        """What a blob consists of, if that is known here."""
        raw = self.pieces.get(cid)
        return read_manifest(raw, self.net.limits) if raw is not None else None

    def has(self, cid: bytes) -> bytes:
        """A bit for each piece of a blob that is kept here; nothing when its manifest is not."""
        try:
            manifest = self.manifest(cid)
        except IntegrityError:  # a piece of a blob, but no manifest
            return b""
        if manifest is None:
            return b""
        bits = sum(1 << i for i, name in enumerate(manifest.hashes) if name in self.pieces)
        return bits.to_bytes(len(manifest.hashes) // 8 + 1, "little")

    async def _piece(self, ctx: Context, body: bytes) -> bytes:
        return self.pieces.get(bytes(body)) or b""  # a task, as a large answer waits for room

    def _have(self, ctx: Context, body: bytes) -> bytes:
        return self.has(bytes(body))

    async def offer(self, cid: bytes) -> None:
        """As ``provide``; that nobody keeps the record is counted and no more."""
        try:
            await self.provide(cid)
        except NetworkError:
            self.net.stats["provide refused"] += 1
