"""Agents: what is told, asked and handed; chains that survive dead peers, and back-pressure instead of loss."""

import asyncio

import pytest

from hubless.errors import ConfigError, PeerBusy, PeerUnreachable, RemoteError, RequestTimeout
from hubless.net.agent import Agent, on, split
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim


def simulated(test):
    def run():
        run_sim(test())

    run.__name__ = test.__name__
    return run


async def networks(count, **options):
    world = SimWorld(5, Link(latency=0.01))
    nets = []
    for i in range(count):
        identity = Identity.derived(3, i)
        nets.append(await Network(SimTransport(world, identity.peer_id), identity, **options).start())
    return world, nets


class Counter(Agent):
    """Adds up."""

    def __init__(self, net, name, **options):
        super().__init__(net, name, **options)
        self.total = 0
        self.heard = []

    @on("add")
    def add(self, msg):
        self.total += msg.body["n"]
        self.heard.append(msg)

    @on("total")
    async def give(self, msg):
        return {"total": self.total, "who": msg.src}

    @on("fail")
    async def fail(self, msg):
        raise ValueError("cannot")


class Loud(Counter):
    """One more kind than its parent."""

    @on("shout")
    async def shout(self, msg):
        return msg.body.upper()


@simulated
async def test_tell_and_ask():
    _, (a, b) = await networks(2)
    one, other = Counter(a, "one"), Loud(b, "other")
    one.tell(other.address, "add", {"n": 2})
    one.tell(other.address, "add", {"n": 3})
    await a.sleep(1)
    assert await one.ask(other.address, "total") == {"total": 5, "who": one.address}
    assert await one.ask(other.address, "shout", "hello") == "HELLO"
    assert await one.ask(other.address, "add", {"n": 1}) is None
    assert other.heard[0].src == one.address
    assert split(one.address) == ("one", a.peer_id)


@simulated
async def test_what_goes_wrong_is_said():
    _, (a, b) = await networks(2)
    one, other = Counter(a, "one"), Counter(b, "other")
    with pytest.raises(RemoteError, match="cannot"):
        await one.ask(other.address, "fail")
    with pytest.raises(RemoteError, match="no handler for 'shout'"):
        await one.ask(other.address, "shout")
    with pytest.raises(RemoteError, match="no handler"):
        await one.ask(f"nobody@{b.peer_id}", "total")
    with pytest.raises(RemoteError, match="not a letter"):
        await a.request(b.peer_id, "agent/other", b"junk")
    with pytest.raises(RemoteError, match="no handler for 'shout'"):
        await one.hand(other.address, "shout", patience=0.1)
    for wrong in ("nobody", "@x", "x@"):
        with pytest.raises(ConfigError, match="name@peer"):
            one.tell(wrong, "add")
    with pytest.raises(ConfigError, match="msgpack cannot hold"):
        one.tell(other.address, "add", object())
    with pytest.raises(ConfigError, match=r"agent\.name"):
        Agent(a, "a@b")
    with pytest.raises(ConfigError, match="has a handler"):
        one.handle("add", one.add)
    with pytest.raises(ConfigError, match="served already"):
        Counter(a, "one")


class Stage(Agent):
    """One hop of a pipeline: works, then hands the row on to any of the next."""

    def __init__(self, net, name, following, work=0.1, **options):
        super().__init__(net, name, **options)
        self.following = following
        self.work = work
        self.done = []
        self.most = 0

    @on("row")
    async def row(self, msg):
        self.most = max(self.most, self._inbox.running + len(self._inbox.waiting))
        await self.net.sleep(self.work)
        if self.following:
            await self.hand(self.following, "row", msg.body, timeout=0.5)
        self.done.append(msg.body)


@simulated
async def test_a_chain_of_hands_survives_a_dead_peer():
    """With ``ask`` the row would be lost with the chain; a hand goes on to another instance of the role."""
    world, (source, b1, b2, c) = await networks(4)
    last = Stage(c, "last", [])
    middle = [Stage(net, "middle", [last.address]) for net in (b1, b2)]
    first = Stage(source, "first", [stage.address for stage in middle])
    world.cut(b1.peer_id)
    for row in range(5):
        assert await first.hand(first.address, "row", row) == first.address
    await source.sleep(30)
    assert sorted(last.done) == [0, 1, 2, 3, 4]
    assert sorted(middle[1].done) == [0, 1, 2, 3, 4]


@simulated
async def test_a_hand_is_answered_before_the_work_is_done_and_an_ask_after():
    _, (a, b) = await networks(2)
    one, slow = Counter(a, "one"), Stage(b, "slow", [], work=5.0)
    begun = a.now()
    await one.hand(slow.address, "row", 1)
    assert a.now() - begun < 0.1
    await one.ask(slow.address, "row", 2)
    assert a.now() - begun > 5


@simulated
async def test_a_row_that_waits_longer_than_it_took_to_hand_it_is_not_lost():
    _, (a, b) = await networks(2)
    one, slow = Counter(a, "one"), Stage(b, "slow", [], work=5.0, limit=1)
    for row in range(4):
        await one.hand(slow.address, "row", row, timeout=1.0)
    await a.sleep(25)
    assert slow.done == [0, 1, 2, 3]


@simulated
async def test_a_full_inbox_holds_the_sender_back_and_loses_nothing():
    _, (a, b, c) = await networks(3)
    slow = Stage(c, "slow", [], work=0.2, limit=1, queue=2)
    quick = Stage(b, "quick", [slow.address], work=0.0, limit=2, queue=2)
    source = Counter(a, "source")
    begun = a.now()
    for row in range(40):
        await source.hand(quick.address, "row", row)
    assert a.now() - begun > 30 * 0.2  # as fast as the slowest, not faster
    await a.sleep(5)
    assert sorted(slow.done) == list(range(40))
    assert max(slow.most, quick.most) <= 4


@simulated
async def test_patience_ends():
    world, (a, b) = await networks(2)
    full = Stage(b, "full", [], work=1000.0, limit=1, queue=0)
    one = Counter(a, "one")
    await one.hand(full.address, "row", 1)
    begun = a.now()
    with pytest.raises(PeerBusy):
        await one.hand(full.address, "row", 2, patience=3.0)
    assert 2 < a.now() - begun <= 3.1
    world.cut(b.peer_id)
    with pytest.raises(PeerUnreachable):
        await one.hand([full.address], "row", 3, timeout=0.5, patience=1.0)
    with pytest.raises(ConfigError, match="nobody"):
        await one.hand([], "row", 4)


@simulated
async def test_a_strict_actor_does_one_thing_after_another_and_waits_for_itself_in_a_circle():
    _, (a, b) = await networks(2)

    class Circle(Agent):
        at_work = most = 0

        @on("round")
        async def turn(self, msg):
            self.at_work += 1
            self.most = max(self.most, self.at_work)
            try:
                await self.net.sleep(0.1)
                return await self.ask(msg.src, "back", self.address, timeout=2.0) if msg.body else "done"
            finally:
                self.at_work -= 1

        @on("back")
        async def back(self, msg):
            return await self.ask(msg.body, "round", False, timeout=1.0)

    strict, wide = Circle(b, "strict", limit=1), Circle(b, "wide", limit=2)
    asker = Circle(a, "asker")
    await asyncio.gather(*(asker.ask(strict.address, "round", False) for _ in range(5)))
    assert strict.most == 1
    assert await asker.ask(wide.address, "round", True) == "done"
    with pytest.raises(RemoteError, match="RequestTimeout"):
        await asker.ask(strict.address, "round", True)


@simulated
async def test_every_runs_until_stop_and_stop_finishes_what_was_accepted():
    _, (a, b) = await networks(2)
    one, worker = Counter(a, "one"), Stage(b, "worker", [], work=0.5, limit=1)
    ticks = []
    one.every(1.0, lambda: ticks.append(a.now()))

    async def slow_tick():
        await a.sleep(2.5)
        ticks.append(None)

    one.every(1.0, slow_tick)
    for row in range(3):
        await one.hand(worker.address, "row", row)
    await worker.stop()
    assert worker.done == [0, 1, 2]
    await a.sleep(10.2 - (a.now() - 1_767_225_600.0))
    await one.stop()
    seen = len(ticks)
    assert ticks.count(None) == 2 or ticks.count(None) == 3
    assert len([tick for tick in ticks if tick]) == 10
    await a.sleep(10)
    assert len(ticks) == seen
    with pytest.raises(RemoteError, match="no handler"):
        await one.ask(worker.address, "row")
    with pytest.raises(ConfigError, match="every"):
        one.every(0, lambda: None)


@simulated
async def test_nobody_can_be_asked_who_does_not_answer():
    world, (a, b) = await networks(2)
    one, other = Counter(a, "one"), Counter(b, "other")
    world.cut(b.peer_id)
    with pytest.raises(RequestTimeout):
        await one.ask(other.address, "total", timeout=1.0)
