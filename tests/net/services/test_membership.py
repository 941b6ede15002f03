"""Who is there: all learn of all, of the dead in time, of cards that change; and nobody can speak for another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.services.membership import (
    BEAT,
    CARD,
    LARGEST,
    PROTO,
    TOMBSTONE,
    Membership,
    _Beat,
    _Card,
    _Digest,
    _encode,
    _News,
)  # fmt: skip
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim

LOSSY = Link(latency=(0.02, 0.15), loss=0.01)


async def newcomer(world, i, door=None):
    identity = Identity.derived(4, i)
    net = await Network(SimTransport(world, identity.peer_id), identity).start()
    if door is not None:
        net.introduce(door)
    return net


async def crowd(count, link=LOSSY):
    """Peers that know one of them; its view is the first."""
    world, nets = SimWorld(6, link), []
    for i in range(count):
        nets.append(await newcomer(world, i, nets[0].peer_id if nets else None))
    return world, nets, [Membership(net, b"card of %d" % i) for i, net in enumerate(nets)]


def test_all_learn_of_all_and_read_their_cards():
    async def main():
        _, nets, views = await crowd(32)
        await nets[0].sleep(8)
        ids = sorted(net.peer_id for net in nets)
        for i, view in enumerate(views):
            assert view.alive() == [peer for peer in ids if peer != nets[i].peer_id]
            assert {card.body for card in view.cards().values()} == {b"card of %d" % j for j in range(32)}
        await nets[0].sleep(60)
        assert all(len(view.alive()) == 31 for view in views)

    run_sim(main())


def test_a_card_that_changes_reaches_all_and_only_it_travels():
    async def main():
        _, nets, views = await crowd(16)
        await nets[0].sleep(8)
        heard = []
        views[3].on_change(lambda peer, state: heard.append((peer, state)))
        big = bytes(LARGEST)
        start = sum(net.stats["bytes"] for net in nets)
        await nets[0].sleep(6)
        before = sum(net.stats["bytes"] for net in nets)
        views[5].announce(big)
        await nets[0].sleep(6)
        assert all(view.cards()[nets[5].peer_id].body == big for view in views)
        assert (nets[5].peer_id, "alive") in heard
        spent = sum(net.stats["bytes"] for net in nets) - before
        assert spent - (before - start) < 3 * 16 * LARGEST  # each hears it once or twice, not with every digest
        with pytest.raises(ConfigError, match=r"membership\.card"):
            views[5].announce(bytes(LARGEST + 1))

    run_sim(main())


def test_a_silent_peer_is_suspect_then_dead_then_forgotten():
    async def main():
        world, nets, views = await crowd(12)
        await nets[0].sleep(8)
        seen = []
        gone = nets[7].peer_id
        views[0].on_change(lambda peer, state: seen.append((round(nets[0].now() - begun), peer, state)))
        begun = nets[0].now()
        world.cut(gone)
        await nets[0].sleep(13)
        assert [(peer, state) for _, peer, state in seen] == [(gone, "suspect"), (gone, "dead")]
        assert 4 <= seen[0][0] <= 8
        assert 9 <= seen[1][0] <= 13
        assert gone not in views[0].cards()
        await nets[0].sleep(TOMBSTONE + 15)
        assert [view.state(gone) for view in views[:3]] == ["unknown"] * 3
        assert not [entry for entry in seen[2:] if entry[1] == gone]  # nobody's old news brought it back

    run_sim(main())


def test_a_peer_that_comes_back_is_alive_again_and_so_are_parted_groups():
    async def main():
        world, nets, views = await crowd(12)
        await nets[0].sleep(8)
        ids = [net.peer_id for net in nets]
        world.partition([ids[:6], ids[6:]])
        await nets[0].sleep(20)
        assert views[0].state(ids[8]) == "dead"
        assert views[0].state(ids[3]) == "alive"
        await nets[0].sleep(60)
        world.heal()
        await nets[0].sleep(30)
        assert all(len(view.alive()) == 11 for view in views)

    run_sim(main())


def test_who_leaves_is_dead_at_once():
    async def main():
        _, nets, views = await crowd(10)
        await nets[0].sleep(8)
        await views[4].leave()
        await nets[4].sleep(1)
        await nets[4].close()
        await nets[0].sleep(3)
        assert all(view.state(nets[4].peer_id) == "dead" for i, view in enumerate(views) if i != 4)

    run_sim(main())


def test_nobody_speaks_for_another():
    async def main():
        world, nets, views = await crowd(4, Link(latency=0.05))
        await nets[0].sleep(5)
        liar, victim, view = nets[1], nets[2], views[0]
        world.cut(victim.peer_id)
        await nets[0].sleep(12)
        assert view.state(victim.peer_id) == "dead"
        key, now = victim.identity.public, int(liar.now() * 1000)

        def beat(time, left=False, tag=BEAT, identity=liar.identity):
            made = _Beat(key, time, 1, left, b"")
            made.signature = identity.sign(tag, made.said())
            return made

        card = _Card(key, now, [], b"lie", b"")
        card.signature = liar.identity.sign(CARD, card.said())
        true = beat(now, identity=victim.identity)
        changed = _Beat(key, now + 5000, 1, False, true.signature)
        for news, reason in (
            (_News([beat(now)], [], []), "membership signature"),
            (_News([beat(now, tag=CARD, identity=victim.identity)], [], []), "membership signature"),
            (_News([changed], [], []), "membership signature"),
            (_News([beat(now + 200_000, identity=victim.identity)], [], []), "membership age"),
        ):
            before = nets[0].stats[f"reject:{reason}"]
            liar.send(nets[0].peer_id, PROTO, _encode(news))
            await liar.sleep(0.2)
            assert nets[0].stats[f"reject:{reason}"] == before + 1
            assert view.state(victim.peer_id) == "dead"
        liar.send(nets[0].peer_id, PROTO, _encode(_News([true], [card], [])))
        await liar.sleep(0.2)
        assert view.state(victim.peer_id) == "alive"  # its own word counts, whoever brings it
        assert nets[0].stats["reject:membership signature"] >= 4
        assert victim.peer_id not in view.cards()
        liar.send(nets[0].peer_id, PROTO, _encode(_News([beat(now + 100, left=True)], [], [])))
        await liar.sleep(0.2)
        assert view.state(victim.peer_id) == "alive"

    run_sim(main())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=10))
def test_random_bodies_do_nothing(bodies):
    async def main():
        _, nets, views = await crowd(2)
        for body in bodies:
            nets[1].send(nets[0].peer_id, PROTO, body)
            nets[1].send(nets[0].peer_id, PROTO, _encode(_Digest([], True))[:-1] + body)
        await nets[0].sleep(2)
        assert len(views[0].members) == 1

    run_sim(main())
