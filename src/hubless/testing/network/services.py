"""Checks of what stands on requests: publishing, records, blobs, and that a simulation is the same every time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from functools import partial

from hubless.errors import HublessError, NetworkError, RequestTimeout
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId
from hubless.testing.network.lab import Lab, Peer, fails, until


async def publish_to_five(lab: Lab) -> None:
    """What one publishes each of five others hears once, from the publisher."""
    async with lab.peers(6) as peers:
        heard: dict[PeerId, list[tuple[PeerId, bytes]]] = {peer.id: [] for peer in peers}
        await acquaint(peers)
        for peer in peers[1:]:
            peer.net.subscribe("news", lambda ctx, body, peer=peer: heard[peer.id].append((ctx.src, body)))
        for i in range(10):
            peers[0].net.publish("news", bytes([i]))
        for peer in peers[1:]:
            await until(
                peer,
                partial(_has, heard[peer.id], 10),
                "a subscriber misses messages; push to neighbours, then tell them what was seen",
            )
        await peers[0].net.sleep(1.5)
        for peer in peers[1:]:
            assert sorted(heard[peer.id]) == [(peers[0].id, bytes([i])) for i in range(10)], (
                "a subscriber hears a message twice or from the wrong peer; remember ids, and ctx.src is the publisher"
            )


def _has(heard: list[tuple[PeerId, bytes]], count: int) -> bool:
    return len(heard) >= count


async def acquaint(peers: list[Peer]) -> None:
    """Let everybody have a link with everybody; a link that loses a frame is there all the same."""
    for peer in peers:
        peer.net.serve("hello", lambda ctx, body: b"")
    for peer in peers:
        for other in peers:
            if other is not peer:
                with contextlib.suppress(RequestTimeout):
                    await peer.net.request(other.id, "hello", b"", timeout=1.0)


async def joined(peers: list[Peer]) -> None:
    """Let everybody enter the DHT by the first."""
    for peer in peers[1:]:
        await peer.net.dht.join([peers[0].id])


async def records_outlive_a_peer(lab: Lab) -> None:
    """A record is found after the peer that wrote it, and one that kept it, are gone."""
    async with lab.peers(6) as peers:
        await joined(peers)
        taken = await peers[0].net.put(b"a key", b"a value", 600.0, "slot")
        assert taken >= 3, f"{taken} of 6 peers took a record; ask the nearest, and count those that agree"
        for peer in peers[:2]:
            await peer.net.close()
        records = await peers[5].net.get(b"a key")
        assert [(r.publisher, r.subkey, r.value) for r in records] == [(peers[0].id, "slot", b"a value")], (
            f"get found {records}: replicate to the nearest peers, and go on when one does not answer"
        )


async def records_have_owners(lab: Lab) -> None:
    """Two publishers of one key do not overwrite each other; the newest of one counts."""
    async with lab.peers(4) as peers:
        await joined(peers)
        await peers[0].net.put(b"key", b"old", 600.0)
        await peers[1].net.put(b"key", b"other", 600.0)
        await peers[0].net.put(b"key", b"new", 600.0)
        records = await peers[3].net.get(b"key", enough=2)
        found = sorted((r.publisher, r.value) for r in records)
        assert found == sorted([(peers[0].id, b"new"), (peers[1].id, b"other")]), (
            f"get found {found}: a slot is (key, publisher, subkey), and the highest seq of it wins"
        )


async def records_have_limits(lab: Lab) -> None:
    """A record that has expired, or is too long, is refused where it is made."""
    async with lab.peers(2) as peers:
        await joined(peers)
        for value, ttl, what in ((b"x", 0.0, "without time to live"), (bytes(65 * 1024), 60.0, "of 65 KiB")):
            await fails(peers[0].net.put(b"key", value, ttl), HublessError, f"a record {what} must be refused")


async def blob_of_ten_megabytes(lab: Lab) -> None:
    """10 MB are stored under their hash, found and fetched by another."""
    async with lab.peers(3) as peers:
        await joined(peers)
        data = hashlib.shake_256(b"a blob").digest(10_000_000)
        cid = await peers[0].net.blob_put(data)
        assert await peers[2].net.blob_get(cid) == data, "a blob came back changed: check every chunk"
        await peers[0].net.close()
        assert await peers[1].net.blob_get(cid, peers=[peers[2].id]) == data, "who has fetched a blob can give it"


async def blob_of_nobody(lab: Lab) -> None:
    """A blob that nobody has is an error in time."""
    async with lab.peers(2) as peers:
        await joined(peers)
        await fails(
            peers[0].net.blob_get(bytes(32), timeout=3.0), NetworkError, "a blob that nobody has must be a NetworkError"
        )


async def failing_task(lab: Lab) -> None:
    """In a simulation a spawned task that fails ends the run."""
    async with lab.peers(1) as (one,):

        async def fails_soon() -> None:
            await one.net.sleep(1)
            raise ValueError("a task of a peer failed")

        seen: list[dict[str, object]] = []
        loop = asyncio.get_running_loop()
        before = loop.call_exception_handler
        loop.call_exception_handler = seen.append  # type: ignore[method-assign,assignment]
        one.net.spawn(fails_soon(), "row nine")
        await one.net.sleep(2)
        loop.call_exception_handler = before  # type: ignore[method-assign]
        assert seen, "spawn must hand a failure to loop.call_exception_handler, with peer and name"


async def conversation(lab: Lab) -> str:
    """A hash over what eight peers hear and when: losses, timeouts, draws and publications included."""
    digest = hashlib.sha256()
    async with lab.peers(8) as peers:
        await acquaint(peers)
        for peer in peers:

            async def work(ctx: Context, body: bytes, peer: Peer = peer) -> bytes:
                await peer.net.sleep(peer.net.rng.random() / 10)
                digest.update(b"".join((repr(peer.net.now()).encode(), peer.id.encode(), ctx.src.encode(), body)))
                return peer.net.rng.randbytes(8)

            peer.net.serve("work", work, limit=4)
            peer.net.subscribe("topic", lambda ctx, body, peer=peer: digest.update(peer.id.encode() + body))

        async def talk(peer: Peer) -> None:
            for turn in range(20):
                other = peer.net.rng.choice([each.id for each in peers if each is not peer])
                try:
                    digest.update(await peer.net.request(other, "work", bytes([turn]), timeout=1.0))
                except RequestTimeout as error:
                    digest.update(str(error).encode())
                if turn % 5 == 0:
                    peer.net.publish("topic", peer.net.rng.randbytes(4))

        await asyncio.gather(*(peer.net.spawn(talk(peer), "talks") for peer in peers))
        await peers[0].net.sleep(3)
        digest.update(repr([sorted(peer.net.stats.items()) for peer in peers]).encode())
    return digest.hexdigest()


SERVICES = (
    publish_to_five,
    records_outlive_a_peer,
    records_have_owners,
    records_have_limits,
    blob_of_ten_megabytes,
    blob_of_nobody,
    failing_task,
)
