"""Records in the DHT: whose they are, how long they last, what liars and losses do to them."""

import pytest

from hubless.errors import ConfigError, RecordRefused
from hubless.net.identity import RECORD, Identity
from hubless.net.policy import Limits
from hubless.net.services.records import PUT
from hubless.net.services.routing import place, position
from hubless.net.services.shelf import Record, sign
from hubless.net.transports.sim import START, Link, SimWorld, run_sim
from hubless.net.trials.population import population

HOUR = 3600.0


def values(records):
    return [record.value for record in records]


def holders(peers, key=b"k"):
    return [net for net in peers if net.records.shelf.kept(key, net.now())]


def test_everybody_gets_what_somebody_put_and_sees_who_that_was():
    async def main():
        async with population(SimWorld(1, Link(loss=0.01)), 20) as peers:
            assert await peers[3].put(b"k", b"three", HOUR) == 8
            assert await peers[4].put(b"k", b"four", HOUR, "side") == 8
            assert len(holders(peers)) == 8
            expected = sorted([(peers[3].peer_id, "", b"three"), (peers[4].peer_id, "side", b"four")])
            for net in peers:
                got = await net.get(b"k")
                assert [(r.publisher, r.subkey, r.value) for r in got] == expected
                assert all(net.now() < r.expires <= net.now() + HOUR for r in got)
            assert await peers[0].get(b"nothing") == []

    run_sim(main())


def test_a_second_put_replaces_the_first_even_where_one_missed_it():
    async def main():
        world = SimWorld(2)
        async with population(world, 20) as peers:
            await peers[0].put(b"k", b"old", HOUR)
            (asleep, *_) = holders(peers[1:])
            world.cut(asleep.peer_id)
            await peers[0].put(b"k", b"new", HOUR)
            world.revive(asleep.peer_id)
            assert values(await asleep.get(b"k")) == [b"old"]  # its own copy, as one is enough
            assert values(await asleep.get(b"k", enough=3)) == [b"new"]

    run_sim(main())


def test_a_publisher_that_starts_anew_is_not_behind_itself():
    async def main():
        async with population(SimWorld(3), 5) as peers:
            await peers[0].put(b"k", b"1", HOUR)
            peers[0].records._seq = 0
            await peers[0].sleep(1)
            await peers[0].put(b"k", b"2", HOUR)
            assert values(await peers[1].get(b"k")) == [b"2"]

    run_sim(main())


def test_a_record_ends_with_its_ttl_and_leaves_the_shelves():
    async def main():
        async with population(SimWorld(4), 12) as peers:
            await peers[0].put(b"k", b"v", 100.0)
            await peers[0].sleep(99)
            assert values(await peers[1].get(b"k")) == [b"v"]
            await peers[0].sleep(2)
            assert await peers[1].get(b"k") == []
            await peers[0].sleep(2 * peers[0].timeouts.upkeep)
            assert not any(len(net.records.shelf) for net in peers)

    run_sim(main())


def test_at_half_of_its_life_a_record_goes_to_those_who_are_nearest_by_then():
    async def main():
        world = SimWorld(5)
        async with population(world, 24) as peers:
            await peers[0].put(b"k", b"v", 100.0)
            first = [net for net in holders(peers) if net is not peers[0]]
            for net in first:
                world.cut(net.peer_id)
            others = [net for net in peers if net not in first]
            await peers[0].sleep(70)
            assert len(holders(others)) >= 8
            assert values(await others[-1].get(b"k")) == [b"v"]
            await peers[0].sleep(40)
            assert await others[-1].get(b"k") == []  # later, but not longer

    run_sim(main())


def test_a_renewed_record_lasts_until_it_is_withdrawn():
    async def main():
        async with population(SimWorld(6), 10) as peers:
            await peers[0].records.put(b"k", b"v", 60.0, renew=True)
            await peers[0].sleep(1000)
            assert values(await peers[5].get(b"k")) == [b"v"]
            peers[0].records.withdraw(b"k")
            await peers[0].sleep(61)
            assert await peers[5].get(b"k") == []

    run_sim(main())


def test_what_cannot_be_put_is_refused_before_anybody_is_asked():
    async def main():
        async with population(SimWorld(7), 3) as (one, *_):
            frames = one.stats["frames"]
            for ttl in (0, -1.0, float("nan"), float("inf")):
                with pytest.raises(ConfigError, match=r"put\.ttl"):  # which is a ValueError
                    await one.put(b"k", b"v", ttl)
            assert issubclass(ConfigError, ValueError)
            with pytest.raises(ConfigError, match=r"put\.replicas = 0"):
                await one.put(b"k", b"v", HOUR, replicas=0)
            with pytest.raises(RecordRefused, match="a value of 65537 bytes: at most 65536"):
                await one.put(b"k", bytes(65537), HOUR)
            with pytest.raises(RecordRefused, match="a key of 65 bytes"):
                await one.put(bytes(65), b"v", HOUR)
            with pytest.raises(RecordRefused, match="a subkey of 70 bytes"):
                await one.put(b"k", b"v", HOUR, "s" * 70)
            assert one.stats["frames"] == frames
            assert await one.put(b"k", bytes(65536), HOUR) == 3

    run_sim(main())


def test_alone_in_the_world_one_keeps_ones_own():
    async def main():
        async with population(SimWorld(8), 1) as (one,):
            assert await one.put(b"k", b"v", HOUR) == 1
            assert values(await one.get(b"k")) == [b"v"]

    run_sim(main())


def test_records_survive_a_fifth_of_their_keepers_but_one_copy_does_not():
    async def main(replicas):
        world = SimWorld(9)
        async with population(world, 50) as peers:
            for i in range(40):
                await peers[0].put(b"%d" % i, b"v", HOUR, replicas=replicas)
            for net in peers[1:11]:
                world.cut(net.peer_id)
            got = [await peers[11 + i % 39].get(b"%d" % i) for i in range(40)]
            return sum(map(bool, got)) / 40

    assert run_sim(main(8)) == 1.0
    assert run_sim(main(1)) < 0.95


ALICE, BOB = Identity.derived(50, 0), Identity.derived(50, 1)


def written(who, key):
    return sign(who, key, Record(who.peer_id, "", b"forged", 1 << 60, START + HOUR))


FORGED = ALICE.sign(RECORD, written(BOB, b"k")[64:]) + written(BOB, b"k")[64:]


def test_holders_that_lie_are_counted_and_others_are_asked():
    async def main():
        async with population(SimWorld(10), 30) as peers:
            await peers[0].put(b"k", b"v", HOUR)
            first, *_, honest = sorted(holders(peers), key=lambda net: position(net.peer_id) ^ place(b"k"))
            for liar in holders(peers):
                if liar is not honest:
                    liar.dht.kept = lambda key: [FORGED, b"junk", written(ALICE, b"another key")]
            reader = next(net for net in peers if net not in holders(peers))
            assert first is not honest
            assert values(await reader.get(b"k")) == [b"v"]
            assert reader.stats["reject:record"] >= 3

    run_sim(main())


@pytest.mark.parametrize("raw", [b"", b"junk", bytes(200), FORGED])
def test_what_is_no_record_is_refused_counted_and_not_kept(raw):
    async def main():
        async with population(SimWorld(11), 2) as (one, other):
            assert await one.request(other.peer_id, PUT, raw) != b""
            assert other.stats["reject:record"] == 1
            assert not len(other.records.shelf)

    run_sim(main())


def test_a_put_that_nobody_takes_says_why():
    async def main():
        world = SimWorld(12, limits=Limits(stored=8, share=8))
        async with population(world, 3) as (one, *_):
            await one.put(b"1", b"v", HOUR)
            with pytest.raises(RecordRefused, match=r"nobody took it; .* as much here as one may have"):
                await one.put(b"2", b"v", HOUR)

    run_sim(main())


def test_the_width_of_lookups_and_the_number_of_copies_are_two_numbers():
    async def main():
        async with population(SimWorld(13), 30, width=4) as peers:
            assert await peers[0].put(b"k", b"v", HOUR, replicas=12) == 12
            assert len(holders(peers)) == 12
            assert await peers[0].put(b"1", b"v", HOUR, replicas=1) == 1
            (nearest,) = holders(peers, b"1")
            target = place(b"1")
            assert nearest is min(peers, key=lambda net: position(net.peer_id) ^ target)

    run_sim(main())
