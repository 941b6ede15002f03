"""The services of a network: each is made when it is first needed here, or when somebody asks for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.services.blobs import Blobs
    from hubless.net.services.kademlia import Kademlia
    from hubless.net.services.publish import Publisher
    from hubless.net.services.records import Records
    from hubless.net.services.shelf import Record
    from hubless.net.serving import Handler
    from hubless.net.transports.transport import PeerId

# the protocols of each; their modules are imported when somebody asks
BUILT_IN = {
    "hub/dht": "records", "hub/put": "records", "hub/blob": "blobs", "hub/have": "blobs", "hub/pub": "publisher",
}  # fmt: skip


class Services:
    """What a ``Network`` offers above requests; a base of it and of nothing else."""

    @property
    def _net(self) -> Network:
        return cast("Network", self)

    @cached_property
    def dht(self) -> Kademlia:
        """Lookups to the peers nearest to a key; ``dht.join`` enters it."""
        from hubless.net.services.kademlia import Kademlia

        return Kademlia(self._net)

    @cached_property
    def records(self) -> Records:
        """Signed records in the DHT."""
        from hubless.net.services.records import Records

        return Records(self._net, self.dht)

    @cached_property
    def blobs(self) -> Blobs:
        """Large data under its hash."""
        from hubless.net.services.blobs import Blobs

        return Blobs(self._net, self.records)

    @cached_property
    def publisher(self) -> Publisher:
        """Published messages, handed on from peer to peer."""
        from hubless.net.services.publish import Publisher

        return Publisher(self._net)

    def publish(self, topic: str, body: bytes) -> bytes:
        """Say something, signed, to all who take part; returns the message's id. Raises FrameTooLarge."""
        return self.publisher.publish(topic, body)

    def subscribe(self, topic: str, handler: Handler, *, limit: int | None = None, queue: int | None = None) -> None:
        """Hear what is published under ``topic``, each message once; ``ctx.src`` is its origin, whoever brought it."""
        self.publisher.subscribe(topic, self._net.inbox(topic, handler, limit=limit, queue=queue))

    async def put(self, key: bytes, value: bytes, ttl: float, subkey: str = "", *, replicas: int = 8) -> int:
        """Publish a record for ``ttl`` seconds; how many peers took it. Raises ConfigError, RecordRefused."""
        return await self.records.put(key, value, ttl, subkey, replicas=replicas)

    async def get(self, key: bytes, *, enough: int = 1) -> list[Record]:
        """The records under ``key`` of all publishers; the caller decides whom it believes."""
        return await self.records.get(key, enough=enough)

    async def blob_put(self, data: bytes, *, provide: bool = True) -> bytes:
        """Keep data for others, and say in the DHT that it is here; returns the hash of its manifest [32 bytes]."""
        return await self.blobs.put(data, provide=provide)

    async def blob_get(self, cid: bytes, *, peers: list[PeerId] | None = None, timeout: float | None = None) -> bytes:
        """Fetch data from ``peers``, or from all that the DHT names. Raises PeerUnreachable, IntegrityError."""
        return await self.blobs.get(cid, peers=peers, timeout=self._net.timeouts.blob if timeout is None else timeout)
