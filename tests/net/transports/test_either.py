"""Two transports as one: the first where it stands, the second meanwhile and else."""

import pytest

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.clock import run_sim
from hubless.net.transports.either import EitherTransport
from hubless.net.transports.relayed import RelayedTransport
from hubless.net.transports.sim import Link, SimTransport, SimWorld

NEAR, FAR = Link(latency=0.01), Link(latency=0.05)
WAITS = Timeouts(step=1.0, redial=30.0)


def pair(*, reached=True):
    """Two peers that hear each other over two worlds; in the first only if ``reached``."""
    worlds = SimWorld(0, NEAR), SimWorld(0, FAR)
    kind = "open" if reached else "sym"
    made = [
        EitherTransport(
            SimTransport(worlds[0], Identity.derived(0, i).peer_id, nat=kind),
            SimTransport(worlds[1], Identity.derived(0, i).peer_id, nat="open"),
            timeouts=WAITS,
        )
        for i in range(2)
    ]
    return worlds, made


async def conversation(transports):
    nets = [
        await Network(transport, Identity.derived(0, i), timeouts=WAITS).start()
        for i, transport in enumerate(transports)
    ]
    nets[1].serve("echo", lambda ctx, body: body[::-1])
    nets[0].introduce(nets[1].peer_id, transports[1].addresses())
    return nets


@pytest.mark.parametrize("reached", [True, False])
def test_the_first_where_it_reaches_and_else_the_second(reached):
    async def main():
        _, transports = pair(reached=reached)
        nets = await conversation(transports)
        begin = nets[0].now()
        assert await nets[0].request(nets[1].peer_id, "echo", b"abc") == b"cba"
        used = transports[0].first if reached else transports[0].second
        assert transports[0]._way(nets[1].peer_id) is used
        assert transports[0].reach(nets[1].peer_id) == "direct"
        took = nets[0].now() - begin
        assert took < (0.1 if reached else 2.0)
        for net in nets:
            await net.close()

    run_sim(main())


class Deaf:
    """A first way on which nobody answers until it is told to; it takes five seconds to find that out."""

    authenticated, max_frame = True, 1000

    def __init__(self, inner):
        self.inner, self.peer_id, self.stands, self.attempts = inner, inner.peer_id, False, 0
        self.now, self.sleep, self.run = inner.now, inner.sleep, inner.run
        self.sent, self.hints, self.lost = [], [], None

    async def start(self):
        pass

    async def close(self):
        pass

    async def ready(self, peer, size=0):
        self.attempts += 1
        await self.sleep(5.0)
        if not self.stands:
            raise PeerUnreachable("nobody")

    def send(self, peer, frame):
        self.sent.append(frame)

    def on_frame(self, handler):
        pass

    def on_lost(self, handler):
        self.lost = handler

    def add_hint(self, peer, addresses):
        self.hints += addresses

    def addresses(self):
        return ["/a", "/b", "/c"]

    def reach(self, peer):
        return "direct" if self.stands else "none"


def deaf():
    world = SimWorld(0, FAR)
    one, two = (SimTransport(world, Identity.derived(0, i).peer_id, nat="open") for i in range(2))
    return EitherTransport(Deaf(one), one, timeouts=WAITS), two


def test_the_second_is_not_kept_waiting_and_the_first_is_taken_when_it_stands():
    async def main():
        either, two = deaf()
        heard = []
        two.on_frame(lambda peer, frame: heard.append(frame))
        await either.start()
        await two.start()
        begin = either.now()
        await either.ready(two.peer_id)
        assert either.now() - begin == pytest.approx(1.0, abs=0.2), "the start of the first, and then the second"
        either.send(two.peer_id, b"around")
        await either.sleep(6.0)
        assert heard == [b"around"]
        begin = either.now()
        await either.ready(two.peer_id)
        assert either.now() - begin < 0.2, "the first has failed; it is not its time"
        assert either.first.attempts == 1
        await either.sleep(30.0)
        await either.ready(two.peer_id)
        assert either.first.attempts == 2
        either.first.stands = True
        either.send(two.peer_id, b"better")
        assert either.first.sent == [b"better"]
        await either.close()
        await two.close()

    run_sim(main())


def test_where_neither_reaches_it_is_told_after_both_were_tried():
    async def main():
        either, two = deaf()
        await either.start()
        with pytest.raises(PeerUnreachable):
            await either.ready(two.peer_id)  # it has not started
        assert either.now() >= 5.0
        with pytest.raises(FrameTooLarge):
            either.send(two.peer_id, bytes(1001))
        await either.close()

    run_sim(main())


def test_a_loss_is_told_when_it_was_of_the_way_in_use():
    async def main():
        either, two = deaf()
        lost = []
        either.on_lost(lost.append)
        await either.start()
        either._second_lost(two.peer_id)
        assert lost == [two.peer_id]
        either.first.stands = True
        either._second_lost(two.peer_id)
        assert len(lost) == 1
        either.first.lost(two.peer_id)
        assert len(lost) == 2
        await either.close()

    run_sim(main())


def test_addresses_go_where_they_belong():
    either, two = deaf()
    given = []
    either.second.add_hint = lambda peer, addresses: given.extend(addresses)
    either.add_hint(two.peer_id, ["/ip4/1.2.3.4/tcp/1", "1.2.3.4:5", f"relay:{two.peer_id}@"])
    assert either.first.hints == ["/ip4/1.2.3.4/tcp/1"]
    assert given == ["1.2.3.4:5", f"relay:{two.peer_id}@"]
    either.second.addresses = lambda: ["1:1", "2:2"]
    assert either.addresses() == ["/a", "1:1", "/b", "2:2", "/c"]


def test_two_peers_are_not_one():
    world = SimWorld(0, NEAR)
    with pytest.raises(ConfigError, match=r"either\.second"):
        EitherTransport(*(SimTransport(world, Identity.derived(0, i).peer_id, nat="open") for i in range(2)))


def test_what_a_relay_of_the_second_carries_is_sealed():
    async def main():
        first, second = SimWorld(0, NEAR), SimWorld(0, FAR)
        ids = [Identity.derived(0, i) for i in range(3)]
        relay = RelayedTransport(SimTransport(second, ids[2].peer_id, nat="open"), carry=True)
        kept = await Network(relay, ids[2]).start()
        transports = [
            EitherTransport(
                SimTransport(first, one.peer_id, nat="sym"),
                RelayedTransport(SimTransport(second, one.peer_id, nat="sym"), {ids[2].peer_id: relay.addresses()}),
                timeouts=WAITS,
            )
            for one in ids[:2]
        ]
        nets = await conversation(transports)
        await nets[0].sleep(2.0)
        nets[0].introduce(nets[1].peer_id, transports[1].addresses())
        assert await nets[0].request(nets[1].peer_id, "echo", b"abc") == b"cba"
        assert transports[0].reach(nets[1].peer_id) == "relayed"
        assert relay.stats["carried"] >= 2
        assert set(relay.stats) <= {"carried", "carried bytes"}
        for net in (*nets, kept):
            await net.close()

    run_sim(main())


def test_limits_are_the_smaller():
    world, other = SimWorld(0, NEAR), SimWorld(0, FAR, max_frame=Limits().frame // 2)
    one = Identity.derived(0, 0).peer_id
    either = EitherTransport(SimTransport(world, one, nat="open"), SimTransport(other, one, nat="open"))
    assert either.max_frame == Limits().frame // 2
