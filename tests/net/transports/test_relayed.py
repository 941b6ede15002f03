"""A way around: who cannot be dialled is reached through a relay, sealed, within a quota, while the relay is there."""

import asyncio

import pytest

from hubless.errors import ConfigError, PeerUnreachable, RequestTimeout
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.carrying import ABSENT, FULL, SPENT, Carrier
from hubless.net.transports.relayed import RelayedTransport
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim
from hubless.net.transports.tcp import TcpTransport
from hubless.testing.network import check_network

SECRET = b"the weights of the reward model"


class Seen(SimTransport):
    """A relay that looks at what it carries."""

    def on_frame(self, handler):
        self.frames = []

        def look(peer, frame):
            self.frames.append(bytes(frame))
            handler(peer, frame)

        super().on_frame(look)


async def network(world, i, nat="open", relays=None, carry=False, transport=SimTransport, **options):
    identity = Identity.derived(5, i)
    inner = transport(world, identity.peer_id, nat)
    net = await Network(RelayedTransport(inner, relays, carry=carry, **options), identity).start()
    net.serve("echo", lambda ctx, body: body + (b" signed" if ctx.signed else b""))
    return net


async def behind_a_relay(**options):
    """A relay and two peers behind symmetric translators, who know each other's addresses."""
    world = SimWorld(3, Link(latency=0.05))
    relay = await network(world, 0, carry=True, transport=Seen, **options)
    pair = [await network(world, i, "sym", {relay.peer_id: []}, **options) for i in (1, 2)]
    await asyncio.sleep(1)
    for one, other in (pair, pair[::-1]):
        one.introduce(other.peer_id, other.transport.addresses())
    return world, relay, pair


def test_who_cannot_be_dialled_is_asked_through_a_relay_that_reads_nothing():
    async def main():
        _, relay, (one, other) = await behind_a_relay()
        assert one.transport.reach(other.peer_id) == "relayed"
        assert await one.request(other.peer_id, "echo", SECRET) == SECRET + b" signed"
        assert relay.transport.stats["carried"] == 2
        assert not any(SECRET in frame for frame in relay.transport.inner.frames)
        assert [address for address in other.transport.addresses() if address.startswith(f"relay:{relay.peer_id}")]

    run_sim(main())


def test_without_a_relay_the_same_peers_cannot_be_reached():
    async def main():
        world = SimWorld(3)
        one, other = [await network(world, i, "sym") for i in (1, 2)]
        with pytest.raises(PeerUnreachable):
            await one.request(other.peer_id, "echo", b"")
        assert one.transport.reach(other.peer_id) == "none"

    run_sim(main())


def test_a_relay_that_leaves_takes_its_addresses_with_it_and_fails_what_is_under_way():
    async def main():
        _, relay, (one, other) = await behind_a_relay()

        async def slow(ctx, body):
            await ctx.net.sleep(60)

        other.serve("slower", slow)
        asked = one.spawn(_failure(one.request(other.peer_id, "slower", b"", 50)), "asked")
        await asyncio.sleep(1)
        await relay.close()
        await asyncio.sleep(1)
        assert asked.done()
        assert isinstance(asked.result(), PeerUnreachable)
        assert not isinstance(asked.result(), RequestTimeout)
        assert not [address for address in other.transport.addresses() if address.startswith("relay:")]
        assert one.transport.reach(other.peer_id) == "none"
        with pytest.raises(PeerUnreachable):
            await one.request(other.peer_id, "echo", b"")

    run_sim(main())


async def _failure(work):
    """How it failed; None when it did not."""
    try:
        await work
    except PeerUnreachable as error:
        return error
    return None


def test_a_circuit_ends_at_its_quota_and_begins_anew_with_a_lease():
    async def main():
        limits, timeouts = Limits(relayed=4000), Timeouts(lease=20)
        _, relay, (one, other) = await behind_a_relay(limits=limits, timeouts=timeouts)
        said = [await _failure(one.request(other.peer_id, "echo", bytes(200), 2)) for _ in range(20)]
        assert said[0] is None
        assert said[-1] is not None
        assert relay.transport.stats["refused:spent"] >= 1
        assert relay.transport.stats["carried bytes"] <= 4000
        await asyncio.sleep(25)
        one.introduce(other.peer_id, other.transport.addresses())
        assert await one.request(other.peer_id, "echo", b"again") == b"again signed"

    run_sim(main())


def test_a_slot_is_renewed():
    async def main():
        _, _, (one, other) = await behind_a_relay(timeouts=Timeouts(lease=10))
        await asyncio.sleep(60)
        assert await one.request(other.peer_id, "echo", b"x") == b"x signed"

    run_sim(main())


def test_who_can_be_dialled_is_not_relayed():
    async def main():
        _, relay, (one, _) = await behind_a_relay()
        third = await network(one.transport.inner.world, 3, "full")
        assert await one.request(third.peer_id, "echo", b"x") == b"x"
        assert one.transport.reach(third.peer_id) == "direct"
        assert relay.transport.stats["carried"] == 0

    run_sim(main())


def test_frames_that_nobody_asked_a_stranger_to_bring_are_dropped():
    async def main():
        world, _, (one, other) = await behind_a_relay()
        stranger = SimTransport(world, Identity.derived(5, 9).peer_id)
        await stranger.start()
        box = bytes([0x83]) + bytes(100)
        for step in range(8):
            stranger.send(one.peer_id, bytes([0x40, step]) + bytes.fromhex(other.peer_id) + box)
        stranger.send(one.peer_id, b"\x40")
        await asyncio.sleep(1)
        stats = one.transport.stats
        assert stats["reject:not asked"] == 1
        assert stats["reject:relay frame"] == 3
        assert stats["reject:not carried"] == 1
        assert await one.request(other.peer_id, "echo", b"x") == b"x signed"

    run_sim(main())


def test_what_is_not_sealed_never_goes_to_a_relay():
    async def main():
        _, _, (one, other) = await behind_a_relay()
        with pytest.raises(PeerUnreachable, match="not sealed"):
            one.transport.send(other.peer_id, b"\x02 in the clear")

    run_sim(main())


def test_links_that_prove_nothing_carry_no_relayed_frames():
    with pytest.raises(ConfigError, match="prove"):
        RelayedTransport(TcpTransport(Identity.derived(0, 0), tls=False))


def test_a_relay_gives_slots_and_circuits_up_to_its_limits():
    now = [0.0]
    carrier = Carrier(Timeouts(lease=10), Limits(links=2, circuits=1, relayed=100), lambda: now[0])
    assert [carrier.reserve(peer) for peer in ("a", "b", "c")] == [None, None, FULL]
    assert carrier.carry("x", "c", 1) == ABSENT
    assert carrier.carry("x", "a", 60) is None
    assert carrier.carry("a", "x", 50) == SPENT  # both ways are one circuit, and x needs no slot to be answered
    assert carrier.carry("y", "a", 1) == FULL
    now[0] = 10.0
    assert carrier.carry("x", "a", 60) == ABSENT
    assert carrier.reserve("c") is None
    assert carrier.carry("x", "c", 60) is None


def test_a_transport_with_a_way_around_is_a_transport():
    worlds = {}

    def make(identity):
        loop = asyncio.get_running_loop()
        world = worlds.setdefault(loop, SimWorld(1))
        return RelayedTransport(SimTransport(world, identity.peer_id))

    check_network(make, simulated=True, only=CHECKED)


CHECKED = ("echo", "large_bodies", "oversize_frame", "deadlines_travel", "closed_during_request", "lost_links")
