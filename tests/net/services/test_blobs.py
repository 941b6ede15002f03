"""Blobs from many peers: whole or not at all, whoever lies, dies or has no room."""

import random
from collections import Counter

import msgspec
import pytest

from hubless.errors import ConfigError, IntegrityError, PeerUnreachable, RequestTimeout
from hubless.net.policy import MIB, Limits
from hubless.net.services.pieces import HAVE, PIECE, Pieces, cut, digest
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population

CHUNK = 1000
SMALL = Limits(chunk=CHUNK)


def world(seed=0, **link):
    return SimWorld(seed, Link(**link), limits=SMALL)


def data(size, seed=0):
    return random.Random(seed).randbytes(size)


def lie(net):
    """Make a peer change every piece that it is asked for; manifests, which have another size, stay as they are."""
    honest = net.blobs.pieces.get

    def get(name):
        piece = honest(name)
        return piece[:-1] + bytes([piece[-1] ^ 1]) if piece and len(piece) == CHUNK else piece

    net.blobs.pieces.get = get


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 40 * CHUNK + 7])
def test_a_blob_arrives_whole(size):
    async def main():
        async with population(world(1, loss=0.02), 10) as peers:
            cid = await peers[0].blob_put(data(size))
            assert cid == digest(cut(data(size), CHUNK)[0])
            assert await peers[5].blob_get(cid) == data(size)

    run_sim(main())


def test_equal_pieces_travel_once():
    async def main():
        async with population(world(2), 2) as (one, other):
            cid = await one.blob_put(bytes(50 * CHUNK) + b"end")
            before = one.stats["bytes"]
            assert await other.blob_get(cid) == bytes(50 * CHUNK) + b"end"
            assert one.stats["bytes"] - before < 6 * CHUNK

    run_sim(main())


def test_a_fetcher_becomes_a_provider_and_the_first_may_go():
    async def main():
        there = world(3)
        async with population(there, 12) as peers:
            cid = await peers[0].blob_put(data(9 * CHUNK))
            await peers[1].blob_get(cid)
            await peers[1].sleep(5)
            assert await peers[2].blobs.providers(cid, enough=8) == sorted([peers[0].peer_id, peers[1].peer_id])
            there.cut(peers[0].peer_id)
            assert await peers[3].blob_get(cid) == data(9 * CHUNK)
            assert await peers[4].blobs.get(cid, peers=[peers[3].peer_id], provide=False) == data(9 * CHUNK)
            await peers[4].sleep(5)
            assert peers[4].peer_id not in await peers[2].blobs.providers(cid, enough=8)

    run_sim(main())


def watched(net):
    """How many pieces a peer asks each other for, and how many of one at a time at most."""
    asked, flying, most = Counter(), Counter(), Counter()
    request = net.request

    async def watch(peer, proto, *more, **options):
        if proto != PIECE:
            return await request(peer, proto, *more, **options)
        asked[peer] += 1
        flying[peer] += 1
        most[peer] = max(most[peer], flying[peer])
        try:
            return await request(peer, proto, *more, **options)
        finally:
            flying[peer] -= 1

    net.request = watch
    return asked, most


def test_every_source_gets_one_request_before_any_gets_its_second():
    async def main():
        async with population(world(4, latency=0.05), 8) as peers:
            blob = data(6 * CHUNK)
            for net in peers[:6]:
                cid = await net.blob_put(blob, provide=False)
            peers[7].blobs.pieces.put(cut(blob, CHUNK)[0])
            asked, most = watched(peers[7])
            assert await peers[7].blob_get(cid, peers=[net.peer_id for net in peers[:6]]) == blob
            assert sorted(asked.values()) == [1] * 6
            assert set(most.values()) == {1}

    run_sim(main())


def test_a_quick_source_gets_four_requests_at_a_time_and_a_slow_one_gets_one():
    async def main(bandwidth):
        async with population(world(5, latency=0.05, bandwidth=bandwidth), 2) as (one, other):
            cid = await one.blob_put(data(60 * CHUNK), provide=False)
            _, most = watched(other)
            await other.blob_get(cid, peers=[one.peer_id], timeout=300.0)
            return most[one.peer_id]

    assert run_sim(main(0)) == 4
    assert run_sim(main(900)) == 1  # each piece takes longer than a step of a lookup may wait behind it


def test_a_source_that_lies_is_left_and_changes_nothing():
    async def main():
        async with population(world(6), 5) as peers:
            for net in peers[:3]:
                cid = await net.blob_put(data(30 * CHUNK))
            lie(peers[1])
            assert await peers[4].blob_get(cid) == data(30 * CHUNK)
            assert peers[4].stats["reject:piece"] >= 1

    run_sim(main())


def test_when_all_sources_lie_the_error_names_one_and_the_piece():
    async def main():
        async with population(world(7), 4) as peers:
            for net in peers[:2]:
                cid = await net.blob_put(data(3 * CHUNK))
                lie(net)
            liars = "|".join(net.peer_id[:8] for net in peers[:2])
            said = (
                rf"^blob {cid[:4].hex()}: ({liars}) sent something else for piece [0-2], and no other source is left$"
            )
            with pytest.raises(IntegrityError, match=said):
                await peers[3].blob_get(cid)
            assert peers[3].stats["reject:piece"] == 2

    run_sim(main())


def test_a_manifest_that_is_another_is_the_liars_only():
    async def main():
        async with population(world(8), 4) as peers:
            cid = await peers[0].blob_put(data(3 * CHUNK))
            await peers[1].blob_put(data(3 * CHUNK))
            peers[1].blobs.pieces.get = lambda name: b"another"
            assert await peers[3].blob_get(cid) == data(3 * CHUNK)
            with pytest.raises(IntegrityError, match=f"{peers[1].peer_id[:8]} sent something else for the manifest"):
                await peers[2].blob_get(cid, peers=[peers[1].peer_id])

    run_sim(main())


def test_a_manifest_that_lies_about_its_blob_is_found_out():
    async def main():
        async with population(world(9), 2) as (one, other):
            piece = data(CHUNK)
            for size, name in ((CHUNK - 1, "999 bytes for 1000"), (2 * CHUNK, "1 pieces for 2000")):
                manifest = msgspec.msgpack.encode([size, CHUNK, [digest(piece)]])
                cid = one.blobs.pieces.put(manifest)
                one.blobs.pieces.put(piece)
                with pytest.raises(IntegrityError, match=name):
                    await other.blob_get(cid, peers=[one.peer_id])
            big = one.blobs.pieces.put(msgspec.msgpack.encode([1 << 40, CHUNK, []]))
            with pytest.raises(IntegrityError, match="at most"):
                await other.blob_get(big, peers=[one.peer_id])

    run_sim(main())


@pytest.mark.parametrize("end", ["crash", "cut"])
def test_what_a_dying_source_owes_is_asked_of_another(end):
    async def main():
        there = world(10, bandwidth=20_000)
        async with population(there, 4) as peers:
            blob = data(40 * CHUNK)
            for net in peers[:2]:
                cid = await net.blob_put(blob, provide=False)
            getting = peers[3].spawn(peers[3].blob_get(cid, peers=[net.peer_id for net in peers[:2]]), "get")
            await peers[3].sleep(0.5)
            assert not getting.done()
            getattr(there, end)(peers[0].peer_id)
            assert await getting == blob

    run_sim(main())


def test_nobody_has_it():
    async def main():
        there = world(11)
        async with population(there, 3) as peers:
            with pytest.raises(PeerUnreachable, match="no source of its manifest; nobody offers it"):
                await peers[0].blob_get(bytes(32))
            with pytest.raises(PeerUnreachable, match=f"{peers[1].peer_id[:8]}: does not have it"):
                await peers[0].blob_get(bytes(32), peers=[peers[1].peer_id])
            there.cut(peers[1].peer_id)
            began = peers[0].now()
            with pytest.raises(PeerUnreachable):
                await peers[0].blob_get(bytes(32), peers=[peers[1].peer_id], timeout=20.0)
            assert peers[0].now() - began < 40
            with pytest.raises(ConfigError, match="cid of 3 bytes"):
                await peers[0].blob_get(b"cid")

    run_sim(main())


def test_a_blob_that_takes_too_long_ends_with_a_timeout_that_says_what_is_missing():
    async def main():
        async with population(world(12, bandwidth=2000), 2) as (one, other):
            cid = await one.blob_put(data(40 * CHUNK), provide=False)
            with pytest.raises(RequestTimeout, match=r"\d+ of 40 pieces still missing"):
                await other.blob_get(cid, peers=[one.peer_id], timeout=10.0)
            assert 3 < len(other.blobs.pieces) < 40  # which a second try need not fetch again
            assert await other.blob_get(cid, peers=[one.peer_id], timeout=60.0) == data(40 * CHUNK)

    run_sim(main())


def test_a_quota_refuses_own_blobs_and_passes_on_what_it_cannot_keep():
    async def main():
        async with population(world(13), 3) as (one, other, third):
            cid = await one.blob_put(data(20 * CHUNK))
            other.blobs.pieces.quota = 5 * CHUNK
            with pytest.raises(ConfigError, match="quota = 5000 has no room"):
                await other.blob_put(data(20 * CHUNK))
            assert await other.blob_get(cid) == data(20 * CHUNK)
            assert other.blobs.pieces.used <= 5 * CHUNK
            assert await third.blob_get(cid) == data(20 * CHUNK)  # though one of the two has little of it
            huge = Limits(blob=10)
            one.limits = huge
            with pytest.raises(ConfigError, match="blob of 11 bytes: at most 10"):
                await one.blob_put(bytes(11))

    run_sim(main())


def test_questions_about_blobs_are_answered_or_not():
    async def main():
        async with population(world(14), 2) as (one, other):
            cid = await one.blob_put(data(9 * CHUNK))
            piece = digest(data(9 * CHUNK)[:CHUNK])
            for name, answer in ((cid, b"\xff\x01"), (piece, b""), (bytes(32), b""), (b"", b""), (bytes(99), b"")):
                assert await other.request(one.peer_id, HAVE, name) == answer
            for name, answer in ((piece, data(9 * CHUNK)[:CHUNK]), (b"junk", b"")):
                assert await other.request(one.peer_id, PIECE, name) == answer

    run_sim(main())


def test_a_blob_in_a_folder_is_there_after_a_restart(tmp_path):
    async def main():
        async with population(world(15), 2) as (one, other):
            one.blobs.pieces = Pieces(MIB, tmp_path)
            cid = await one.blob_put(data(5 * CHUNK), provide=False)
            one.blobs.pieces = Pieces(MIB, tmp_path)
            assert await other.blob_get(cid, peers=[one.peer_id]) == data(5 * CHUNK)

    run_sim(main())


def test_a_fetch_ends_when_its_network_closes():
    async def main():
        async with population(world(16, bandwidth=2000), 3) as (one, other, third):
            cid = await one.blob_put(data(40 * CHUNK))
            getting = third.spawn(_error(other.blob_get(cid)), "get")
            await other.sleep(3)
            await other.close()
            assert isinstance(await getting, PeerUnreachable)

    async def _error(work):
        with pytest.raises(PeerUnreachable) as error:
            await work
        return error.value

    run_sim(main())


def test_a_swarm_fetches_from_one_source_much_sooner_than_one_by_one():
    async def main(alone):
        there = world(17, latency=0.05, bandwidth=20_000)
        async with population(there, 11) as peers:
            cid = await peers[0].blob_put(data(40 * CHUNK))
            began = peers[0].now()
            given = [peers[0].peer_id] if alone else None
            tasks = [net.spawn(net.blob_get(cid, peers=given, timeout=300.0), "get") for net in peers[1:]]
            assert [await task for task in tasks] == [data(40 * CHUNK)] * 10
            return peers[0].now() - began

    assert run_sim(main(True)) > 2 * run_sim(main(False))
