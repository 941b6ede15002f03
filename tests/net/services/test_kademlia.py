"""Lookups find the nearest peers, in few rounds, whatever others lose, claim or are."""

import math

import msgspec
import pytest

from hubless.errors import PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.services.kademlia import FIND, Find, Found
from hubless.net.services.routing import place, position
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population


def nearest(peers, target, count):
    return sorted((net.peer_id for net in peers), key=lambda peer: position(peer) ^ target)[:count]


def test_a_lookup_finds_exactly_the_nearest_peers_in_few_rounds():
    async def main():
        async with population(SimWorld(1, Link(loss=0.01)), 60) as peers:
            for i in range(20):
                net, target = peers[3 * i], place(b"%d" % i)
                found = await net.dht.lookup(target)
                others = [other for other in peers if other is not net]
                assert found.closest == nearest(others, target, 8)
                assert 1 <= found.rounds <= math.log2(60)
                assert found.asked <= 30

    run_sim(main())


def test_silent_peers_cost_time_and_nothing_else():
    async def main():
        world = SimWorld(2)
        async with population(world, 40) as peers:
            for net in peers[:10]:
                world.cut(net.peer_id)
            target = place(b"a key")
            found = await peers[20].dht.lookup(target)
            alive = [net for net in peers[10:] if net is not peers[20]]
            assert found.closest == nearest(alive, target, 8)

    run_sim(main())


def test_one_failed_step_removes_nobody():
    async def main():
        world = SimWorld(3)
        async with population(world, 2) as (one, other):
            for misses, known in ((1, True), (2, False)):
                world.cut(other.peer_id)
                assert (await one.dht.lookup(0)).closest == []
                world.revive(other.peer_id)
                assert (other.peer_id in one.dht.table) == known, misses

    run_sim(main())


def test_a_join_repeats_until_somebody_answers():
    async def main():
        world = SimWorld(4)
        async with population(world, 3, joined=False) as (door, other, late):
            await other.dht.join([door.peer_id])
            world.cut(door.peer_id)
            joining = late.spawn(late.dht.join([door.peer_id]), "join")
            await late.sleep(8)
            assert not joining.done()
            world.revive(door.peer_id)
            await joining
            assert late.dht.table.closest(0, 8) != []
            assert other.peer_id in late.dht.table

    run_sim(main())


def test_a_join_through_nobody_ends_with_an_error_in_time():
    async def main():
        world = SimWorld(5)
        async with population(world, 2, joined=False) as (one, door):
            world.cut(door.peer_id)
            began = one.now()
            with pytest.raises(PeerUnreachable, match="no answer from any of 1 peers"):
                await one.dht.join([door.peer_id], timeout=10)
            assert one.now() - began < 20
            await one.dht.join([])  # the first of all

    run_sim(main())


def test_who_has_not_joined_asks_those_it_was_introduced_to():
    async def main():
        async with population(SimWorld(6), 2, joined=False) as (one, other):
            one.introduce(other.peer_id)
            assert (await one.dht.lookup(0)).closest == [other.peer_id]
            assert one.peer_id in other.dht.table  # who asks is learned from, too

    run_sim(main())


def lie(net, answer):
    """Make a peer answer questions of the DHT with what ``answer`` gives."""
    net.withdraw(net._served[FIND])
    net.serve(FIND, lambda ctx, body: answer())


KEYS = [Identity.derived(99, i).public for i in range(100)]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"junk",
        bytes(5000),
        msgspec.msgpack.encode(Found([(key, []) for key in KEYS[:21]], [])),  # more than anybody asks for
        msgspec.msgpack.encode([[[b"short", []]], []]),
        msgspec.msgpack.encode([[[KEYS[0], ["a" * 129]]], []]),
        msgspec.msgpack.encode([[[KEYS[0], ["a"] * 9]], []]),
        msgspec.msgpack.encode([[[KEYS[0], [7]]], []]),
        b"\x92\x91\x92\xc4\x20" + bytes(32) + b"\x91\xa1\xff\x90",  # an address that is no text
    ],
)
def test_junk_answers_are_counted_and_their_senders_are_no_nodes(answer):
    async def main():
        async with population(SimWorld(7), 12) as peers:
            liar = peers[5]
            lie(liar, lambda: answer)
            target = position(liar.peer_id)
            for _ in range(2):
                found = await peers[0].dht.lookup(target)
                assert found.closest == nearest([n for n in peers[1:] if n is not liar], target, 8)
            assert peers[0].stats["reject:dht answer"] == 2
            assert liar.peer_id not in peers[0].dht.table

    run_sim(main())


def test_peers_that_do_not_exist_do_not_hide_those_that_do():
    async def main():
        async with population(SimWorld(8), 30) as peers:
            target = place(b"a key")
            liars = nearest(peers[1:], target, 2)
            ghosts = sorted(KEYS, key=lambda key: position(key.hex()) ^ target)
            for net in peers:
                if net.peer_id in liars:
                    lie(net, lambda: msgspec.msgpack.encode(Found([(key, []) for key in ghosts[:8]], [])))
            found = await peers[0].dht.lookup(target)
            assert found.closest == nearest(peers[1:], target, 8)
            assert not any(ghost.hex() in peers[0].dht.table for ghost in ghosts)

    run_sim(main())


@pytest.mark.parametrize("question", [b"", b"junk", msgspec.msgpack.encode([b"short", None, []]), b"\x91" * 3000])
def test_junk_questions_are_counted(question):
    async def main():
        async with population(SimWorld(9), 2) as (one, other):
            assert await one.request(other.peer_id, FIND, question) == b""
            assert other.stats["reject:dht question"] == 1
            good = msgspec.msgpack.encode(Find(bytes(32), None, ["sim:1"]))
            assert await one.request(other.peer_id, FIND, good) != b""

    run_sim(main())


def test_a_lookup_ends_when_its_network_closes():
    async def main():
        world = SimWorld(10)
        async with population(world, 3) as (one, *others):
            for net in others:
                world.cut(net.peer_id)
            (looking,) = [others[0].spawn(one.dht.lookup(0), "lookup")]
            await one.sleep(0.5)
            await one.close()
            assert (await looking).closest == []

    run_sim(main())


def test_a_crashed_network_says_so_at_once():
    async def main():
        async with population(SimWorld(11), 2) as (one, _):
            await one.close()
            assert (await one.dht.lookup(0)).asked == 0

    run_sim(main())


def test_the_same_seed_looks_up_the_same_way():
    def once():
        async def main():
            async with population(SimWorld(12, Link(loss=0.05, jitter=0.01)), 25) as peers:
                return [await net.dht.lookup(place(net.identity.public)) for net in peers]

        return run_sim(main())

    assert once() == once()
