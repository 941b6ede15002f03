"""The network of one peer: what ``check_network`` does not ask of every transport."""

import asyncio
import logging
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError, FrameTooLarge, PeerBusy, PeerUnreachable, RemoteError, RequestTimeout
from hubless.net.envelope import COUNTER
from hubless.net.identity import Identity
from hubless.net.network import BUILT_IN, Network
from hubless.net.policy import Limits, Timeouts
from hubless.net.replay import ReplayGuard
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim


async def networks(count, link=None, nats="", **options):
    world = SimWorld(11, link or Link(latency=0.05))
    nets = []
    for i in range(count):
        identity = Identity.derived(7, i)
        transport = SimTransport(world, identity.peer_id, nats[i] if nats else "open")
        nets.append(await Network(transport, identity, **options).start())
    return world, nets


def simulated(test):
    def run():
        run_sim(test())

    run.__name__ = test.__name__
    return run


async def echo(ctx, body):
    return body


@simulated
async def test_a_queue_takes_so_many_and_no_more_and_skips_what_nobody_waits_for():
    _, (a, b) = await networks(2)
    ran = []

    async def slow(ctx, body):
        ran.append(body)
        await ctx.net.sleep(5)
        return body

    b.serve("slow", slow, limit=1, queue=2)
    asked = [a.request(b.peer_id, "slow", name, wait) for name, wait in ((b"1", 20), (b"2", 3), (b"3", 20), (b"4", 20))]
    first, second, third, fourth = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, third) == (b"1", b"3")
    assert isinstance(second, RequestTimeout)
    assert isinstance(fourth, PeerBusy)
    assert ran == [b"1", b"3"]
    assert b.stats["expired"] == 1
    assert b.stats["busy"] == 1


@simulated
async def test_a_deadline_travels_and_can_be_handed_on():
    _, (a, b) = await networks(2)
    left = []

    async def look(ctx, body):
        await ctx.net.sleep(1)
        left.append((ctx.left(), ctx.signed, ctx.proto))

    b.serve("look", look)
    await a.request(b.peer_id, "look", b"", 3.0)
    assert left == [(pytest.approx(2.0, abs=0.01), False, "look")]
    a.send(b.peer_id, "look", b"")
    await a.sleep(2)
    assert left[1][0] == inf


@simulated
async def test_a_request_is_no_longer_than_its_timeout_even_when_dialling_is():
    world, (a, b) = await networks(2)
    world.cut(b.peer_id)
    begun = a.now()
    with pytest.raises(RequestTimeout):
        await a.request(b.peer_id, "echo", b"", 1.0)
    assert a.now() - begun == pytest.approx(1.0)


@simulated
async def test_dialling_can_be_cancelled():
    world, (a, b) = await networks(2)
    world.cut(b.peer_id)
    asked = a.spawn(a.request(b.peer_id, "echo", b"", 60.0), "asked")
    await a.sleep(1)
    asked.cancel()
    await a.sleep(1)
    assert asked.cancelled()


@simulated
async def test_frames_are_signed_where_asked_and_where_a_relay_brings_them():
    world, (a, b, relay) = await networks(3, nats=("sym", "sym", "open"))
    world.relays.append(relay.peer_id)
    signed = []
    b.serve("look", lambda ctx, body: signed.append(ctx.signed))
    await a.request(b.peer_id, "look", b"")
    await relay.request(b.peer_id, "look", b"")
    assert signed == [True, False]
    identity = Identity.derived(7, 9)
    careful = await Network(SimTransport(world, identity.peer_id), identity, sign="always").start()
    await careful.request(b.peer_id, "look", b"")
    assert signed[-1]


@simulated
async def test_one_can_ask_oneself():
    _, (a,) = await networks(1)
    a.serve("echo", echo)
    assert await a.request(a.peer_id, "echo", b"x") == b"x"


@simulated
async def test_built_in_services_answer_who_never_used_them():
    _, (a, b) = await networks(2)
    assert "records" not in vars(b)
    a.introduce(b.peer_id)
    assert await a.put(b"key", b"value", 60) >= 1
    assert [record.value for record in await b.get(b"key")] == [b"value"]
    for proto in BUILT_IN:
        assert b._built_in(proto) is not None, f"{proto} is served by no service"


@simulated
async def test_an_error_shows_one_traceback_and_goes_to_who_asked():
    _, (a, b) = await networks(2)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("hubless.net").addHandler(handler)
    logging.getLogger("hubless.net").propagate = False

    async def fails(ctx, body):
        raise ValueError("row 9 is odd")

    try:
        b.serve("fails", fails)
        for _ in range(3):
            with pytest.raises(RemoteError, match="ValueError: row 9 is odd"):
                await a.request(b.peer_id, "fails", b"")
        a.send(b.peer_id, "fails", b"")
        await a.sleep(1)
    finally:
        logging.getLogger("hubless.net").removeHandler(handler)
        logging.getLogger("hubless.net").propagate = True
    assert [record.exc_info[0] for record in records] == [ValueError]
    assert b.stats["failed:fails"] == 4


@simulated
async def test_a_handler_that_returns_what_is_no_bytes_is_an_error_of_its_own():
    _, (a, b) = await networks(2)
    b.serve("number", lambda ctx, body: 7)
    with pytest.raises(RemoteError, match="int: must be bytes or None"):
        await a.request(b.peer_id, "number", b"")


def test_a_task_that_fails_stops_a_simulation_and_names_the_peer():
    async def main():
        _, (a, _) = await networks(2)

        async def fails():
            raise ValueError("no such row")

        a.spawn(fails(), "reading rows")
        await a.sleep(1)

    with pytest.raises(ValueError, match="no such row") as caught:
        run_sim(main())
    note = "".join(caught.value.__notes__)
    assert Identity.derived(7, 0).peer_id[:8] in note
    assert "reading rows" in note


@simulated
async def test_closing_cancels_tasks_and_fails_what_is_asked():
    _, (a, b) = await networks(2)
    ended = []

    async def waits(ctx, body):
        try:
            await ctx.net.sleep(100)
        finally:
            ended.append(body)

    b.serve("waits", waits)
    asked = asyncio.gather(a.request(b.peer_id, "waits", b"x", 50), return_exceptions=True)
    await a.sleep(1)
    await b.close()
    await b.close()
    assert ended == [b"x"]
    (failure,) = await asked
    assert isinstance(failure, PeerUnreachable)
    assert not isinstance(failure, RequestTimeout)
    with pytest.raises(PeerUnreachable):
        await b.request(a.peer_id, "echo", b"")
    with pytest.raises(PeerUnreachable):
        b.spawn(b.sleep(1), "late")


@simulated
async def test_a_crash_ends_a_network_at_once():
    world, (a, b) = await networks(2)
    ended = []

    async def waits(ctx, body):
        try:
            await ctx.net.sleep(100)
        finally:
            ended.append(body)

    b.serve("waits", waits)
    asked = asyncio.gather(a.request(b.peer_id, "waits", b"x", 50), return_exceptions=True)
    gone = []
    a.on_lost(gone.append)
    await a.sleep(1)
    world.crash(b.peer_id)
    await a.sleep(1)
    assert ended == [b"x"]
    assert isinstance(asked.result()[0], PeerUnreachable)
    assert gone == [b.peer_id]
    assert b.peer_id not in [info.peer for info in a.peers()]


@simulated
async def test_peers_are_those_introduced_or_heard():
    _, (a, b, c) = await networks(3)
    b.serve("echo", echo)
    a.introduce(c.peer_id)
    await a.request(b.peer_id, "echo", b"")
    assert [info.peer for info in a.peers()] == sorted([b.peer_id, c.peer_id])
    assert [info.peer for info in b.peers()] == [a.peer_id]
    assert {info.reach for info in a.peers()} == {"direct"}
    assert a.stats["frames"] == 1
    assert a.stats["frames heard"] == 1
    assert a.stats["bytes heard"] == b.stats["bytes"]


@simulated
async def test_what_is_too_large_is_refused_before_it_is_sent():
    _, (a, b) = await networks(2)
    big = bytes(a.max_frame)
    with pytest.raises(FrameTooLarge, match=r"16,777,\d+ bytes: at most 16,777,216"):
        await a.request(b.peer_id, "echo", big)
    with pytest.raises(FrameTooLarge):
        a.publish("topic", big)
    with pytest.raises(PeerUnreachable, match="no peer id"):
        a.send("nobody", "echo", b"")


@simulated
async def test_bad_options_are_config_errors():
    world, (a, _) = await networks(2)
    a.serve("echo", echo)
    for proto, handler, options in (
        ("echo", echo, {}),
        ("", echo, {}),
        ("n" * 65, echo, {}),
        ("none", None, {}),
        ("limit", echo, {"limit": 0}),
        ("queue", echo, {"queue": -1}),
    ):
        with pytest.raises(ConfigError):
            a.serve(proto, handler, **options)
    identity = Identity.derived(7, 20)
    with pytest.raises(ConfigError, match=r"network\.sign"):
        Network(SimTransport(world, identity.peer_id), identity, sign="never")
    with pytest.raises(ConfigError, match=r"network\.identity"):
        Network(SimTransport(world, identity.peer_id), Identity.derived(7, 21))


def made(milliseconds, counter=0):
    return milliseconds << COUNTER | counter


@settings(max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(1, 20))
def test_no_id_is_taken_twice(counters, replays):
    guard = ReplayGuard(Limits(replays=replays))
    taken = []
    for counter in counters:
        ident = made(1_000_000, counter)
        if guard.refuses("a", ident, 1000.0) is None:
            guard.mark("a", ident)
            taken.append(ident)
    assert len(taken) == len(set(taken))
    recent = sorted(taken)[-replays:]
    assert all(guard.refuses("a", ident, 1000.0) == "replayed" for ident in recent)


def test_ids_of_another_time_and_of_too_many_senders_are_refused():
    guard = ReplayGuard(Limits(senders=2, age=10))
    assert guard.refuses("a", made(989_000), 1000.0) == "age"
    assert guard.refuses("a", made(1_011_000), 1000.0) == "age"
    guard.mark("a", made(1_000_000))
    guard.mark("b", made(1_005_000))
    assert guard.refuses("c", made(1_006_000), 1006.0) == "crowded"
    assert guard.refuses("c", made(1_012_000), 1012.0) is None  # nothing of a could be taken any more
    assert "a" not in guard.windows
    assert guard.refuses("b", made(1_005_000), 1012.0) == "replayed"


def test_timeouts_of_ones_own_are_used():
    async def main():
        _, (a, b) = await networks(2, timeouts=Timeouts(request=0.5))

        async def waits(ctx, body):
            await ctx.net.sleep(9)

        b.serve("waits", waits)
        begun = a.now()
        with pytest.raises(RequestTimeout, match=r"0\.5 s"):
            await a.request(b.peer_id, "waits", b"")
        assert a.now() - begun < 0.6
        await a.sleep(10)
        assert a.stats["late reply"] == 1

    run_sim(main())
