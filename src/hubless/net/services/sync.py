"""Artefacts such as models, kept at their newest version by all who follow them.

A publisher puts the data into the network as a blob and announces ``{version, cid}`` under the artefact's name in a
replicated map. Who follows sees a version above its own, fetches it from whoever has it, and has it for others then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hubless.errors import ConfigError, NetworkError
from hubless.net.services import UNREADABLE
from hubless.net.services.pieces import Digest
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.crdt.store import CrdtStore
    from hubless.net.network import Network

MAP = "artefacts"


class Announced(msgspec.Struct, frozen=True):
    """A version of an artefact, and the blob that it is."""

    version: int
    cid: Digest


class Sync:
    """A peer's artefacts.

    store: the document in which they are announced; its members are those who may announce
    here:  versions that this peer has, by name
    """

    def __init__(self, net: Network, store: CrdtStore) -> None:
        self.net = net
        self.store = store
        self.here: dict[str, Announced] = {}

    def newest(self, name: str) -> Announced | None:
        """The announcement that counts, as far as it has reached this peer; None for none or a malformed one."""
        values: Any = self.store.value(MAP, "map")
        try:
            return msgspec.convert((values or {}).get(name), Announced)
        except UNREADABLE:
            return None

    async def announce(self, name: str, version: int, data: bytes) -> bytes:
        """Offer a version and say so; its cid. Raises ConfigError unless it is above the newest one known here."""
        newest = self.newest(name)
        if newest is not None and version <= newest.version:
            raise ConfigError(f"announce.version = {version}: must be above {newest.version}")
        cid = await self.net.blob_put(data)
        self.here[name] = Announced(version, cid)
        self.store.set(MAP, name, msgspec.to_builtins(self.here[name], builtin_types=(bytes,)))
        return cid

    def follow(
        self, name: str, take: Callable[[int, bytes], object], *, sources: Sequence[PeerId] | None = None
    ) -> asyncio.Task[None]:
        """From now on fetch every newer version and hand it to ``take``, until the task is cancelled.

        sources: fetch from these alone, and offer nothing
        """
        return self.net.spawn(self._follow(name, take, sources), f"follow {name}")

    async def _follow(self, name: str, take: Callable[[int, bytes], object], sources: Sequence[PeerId] | None) -> None:
        while True:
            newest, here = self.newest(name), self.here.get(name)
            if newest is not None and (here is None or newest.version > here.version):
                try:
                    data = await self.net.blobs.get(
                        newest.cid, peers=None if sources is None else list(sources), provide=sources is None
                    )
                except NetworkError:
                    self.net.stats["artefact not fetched"] += 1
                else:
                    self.here[name] = newest
                    take(newest.version, data)
            await self.net.sleep(self.net.timeouts.poll)
