"""Artefacts at their newest version: announced once, fetched by all who follow, whatever else is in the map."""

import pytest

from hubless.errors import ConfigError
from hubless.net.crdt.store import CrdtStore
from hubless.net.services.sync import MAP, Sync
from hubless.net.transports.sim import SimWorld, run_sim
from hubless.net.trials.population import population


def synced(peers):
    members = [net.peer_id for net in peers]
    return [Sync(net, CrdtStore(net, "artefacts", lambda: members)) for net in peers]


def test_followers_get_each_newer_version_and_have_it_for_others():
    async def main():
        world = SimWorld(1)
        async with population(world, 6) as peers:
            publisher, *followers = synced(peers)
            got = [[] for _ in followers]
            for follower, mine in zip(followers, got, strict=True):
                follower.follow("model", lambda version, data, mine=mine: mine.append((version, data)))
            await publisher.announce("model", 1, b"one")
            await peers[0].sleep(15)
            await publisher.announce("model", 3, b"three")
            await peers[0].sleep(15)
            assert got == [[(1, b"one"), (3, b"three")]] * 5
            world.cut(peers[0].peer_id)
            late = Sync(peers[5], followers[4].store)
            late.follow("model", lambda version, data: got.append((version, data)))
            await peers[5].sleep(30)
            assert got[-1] == (3, b"three")

    run_sim(main())


def test_a_version_that_is_not_above_the_newest_is_refused():
    async def main():
        async with population(SimWorld(2), 2) as peers:
            one, other = synced(peers)
            cid = await one.announce("model", 5, b"five")
            assert one.newest("model").cid == cid
            await peers[0].sleep(10)
            for version in (4, 5):
                with pytest.raises(ConfigError, match=f"announce.version = {version}: must be above 5"):
                    await other.announce("model", version, b"other")
            assert other.newest("another") is None

    run_sim(main())


@pytest.mark.parametrize("junk", [None, 7, "text", {}, {"version": 9}, {"version": "9", "cid": bytes(32)},
                                  {"version": 9, "cid": b"short"}])  # fmt: skip
def test_a_malformed_announcement_is_none(junk):
    async def main():
        async with population(SimWorld(3), 2) as peers:
            one, other = synced(peers)
            got = []
            other.follow("model", lambda version, data: got.append(data))
            one.store.set(MAP, "model", junk)
            await peers[0].sleep(10)
            assert other.newest("model") is None
            await one.announce("model", 1, b"good")
            await peers[0].sleep(10)
            assert got == [b"good"]

    run_sim(main())


def test_an_artefact_that_nobody_has_is_counted_and_tried_again():
    async def main():
        async with population(SimWorld(4), 3) as peers:
            one, other, _ = synced(peers)
            got = []
            other.follow("model", lambda version, data: got.append(data))
            one.store.set(MAP, "model", {"version": 1, "cid": bytes(32)})
            await peers[0].sleep(20)
            assert peers[1].stats["artefact not fetched"] >= 1
            await one.announce("model", 2, b"there")
            await peers[0].sleep(20)
            assert got == [b"there"]

    run_sim(main())
