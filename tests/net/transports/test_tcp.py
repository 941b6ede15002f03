"""Frames over real sockets on loopback: who is heard, what is refused, what happens when a link goes."""

import asyncio
import contextlib
import functools
import logging
import socket
import ssl

import pytest

from hubless.errors import ConfigError, FrameTooLarge, PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.framing import LAST, LENGTH
from hubless.net.transports.link import Introduction
from hubless.net.transports.tcp import TcpTransport
from hubless.net.transports.tls import BULK, MAIN, Contexts

QUICK = Timeouts(dial=0.2, stall=0.2, close=0.2)


def on_a_loop(test):
    """Run a coroutine function as a test; nothing in this file takes half a minute."""

    @functools.wraps(test)
    def ran(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return ran


class Node(TcpTransport):
    """A transport that keeps what it hears."""

    def __init__(self, i, **options):
        super().__init__(Identity.derived(0, i), **options)
        self.inbox = asyncio.Queue()
        self.gone = asyncio.Queue()
        self.on_frame(lambda peer, frame: self.inbox.put_nowait((peer, frame)))
        self.on_lost(self.gone.put_nowait)

    def knows(self, *others):
        for other in others:
            self.add_hint(other.peer_id, other.addresses())

    def lanes(self):
        return sorted(lane for _, lane in self._links)

    async def hear(self, count):
        return [await self.inbox.get() for _ in range(count)]


@contextlib.asynccontextmanager
async def nodes(*options, **shared):
    made = [Node(i, **shared, **own) for i, own in enumerate(options)]
    try:
        for node in made:
            await node.start()
        yield made
    finally:
        for node in made:
            await node.close()


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


async def stranger(node, i=9, *, lane=MAIN, contexts=None):
    """A connection of somebody who speaks for himself: reader and writer."""
    host, port = node.host, node.port
    if not node.authenticated:
        return await asyncio.open_connection(host, port)
    context = (contexts or Contexts.of(Identity.derived(0, i))).clients[lane]
    return await asyncio.open_connection(host, port, ssl=context, server_hostname="")


def introduction(i=9, lane=MAIN):
    frame = Introduction(Identity.derived(0, i).peer_id, lane, 0).encode()
    return LENGTH.pack(len(frame)) + frame


async def over(reader, writer):
    """Wait until the other side has ended the connection."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while await reader.read(1 << 16):
            pass
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@pytest.mark.parametrize("tls", [True, False])
@on_a_loop
async def test_frames_of_any_size_arrive_once_and_from_whom(tls):
    sizes = [0, 1, 2, 65_535, 65_536, 262_139, 262_140, 262_141, 300_000, 5_000_000]
    async with nodes({}, {}, tls=tls) as (anna, bora):
        anna.knows(bora)
        for here, there in ((anna, bora), (bora, anna)):  # who was dialled answers on the links there are
            for size in sizes:
                await here.ready(there.peer_id, size)
                here.send(there.peer_id, bytes([size % 251]) * size)
            heard = await there.hear(len(sizes))
            assert sorted(len(frame) for _, frame in heard) == sizes
            assert all(frame == bytes([len(frame) % 251]) * len(frame) for _, frame in heard)
            assert {peer for peer, _ in heard} == {here.peer_id if tls else None}
        assert anna.lanes() == bora.lanes() == [MAIN, BULK]
        assert anna.reach(bora.peer_id) == "direct"
        assert anna.reach("00" * 32) == "none"


@on_a_loop
async def test_frames_of_one_turn_arrive_in_order():
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        await anna.ready(bora.peer_id)
        for i in range(1000):
            anna.send(bora.peer_id, i.to_bytes(2, "big") * (1 + i % 7))
            if i % 100 == 0:
                await asyncio.sleep(0)
        assert [int.from_bytes(frame[:2], "big") for _, frame in await bora.hear(1000)] == list(range(1000))


@on_a_loop
async def test_without_ready_a_frame_waits_for_the_dial():
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        for i in range(5):
            anna.send(bora.peer_id, bytes([i]))
        assert [frame[0] for _, frame in await bora.hear(5)] == list(range(5))
        with pytest.raises(PeerUnreachable, match="no address"):
            anna.send("11" * 32, b"")
        port = bora.port
        await bora.close()
        await anna.gone.get()
        anna.send(bora.peer_id, b"lost")
        await until(lambda: anna.stats["drop:unreachable"] == 1)
        with pytest.raises(PeerUnreachable, match=rf"127.0.0.1:{port}: .*[Cc]onnect"):
            await anna.ready(bora.peer_id)


@on_a_loop
async def test_another_peer_at_the_address_is_refused():
    async with nodes({}, {}, {}) as (anna, bora, carl):
        anna.add_hint(carl.peer_id, bora.addresses())
        with pytest.raises(PeerUnreachable, match=f"{bora.peer_id[:8]} is at its address"):
            await anna.ready(carl.peer_id)
        anna.add_hint(carl.peer_id, anna.addresses())
        anna.add_hint(carl.peer_id, carl.addresses())
        await anna.ready(carl.peer_id)  # the next address is tried
        assert anna.stats["reject:wrong peer"] == 1
        assert anna.inbox.empty()


@pytest.mark.parametrize("tls", [True, False])
@on_a_loop
async def test_who_is_not_on_the_allow_list_is_refused_and_not_dialled(tls):
    friend = Identity.derived(0, 1).peer_id
    async with nodes(dict(allow=frozenset({friend})), {}, {}, tls=tls) as (anna, bora, carl):
        for node in (bora, carl):
            node.knows(anna)
            anna.knows(node)
        await bora.ready(anna.peer_id)
        with pytest.raises(PeerUnreachable):
            await carl.ready(anna.peer_id)
        with pytest.raises(PeerUnreachable, match="not on the allow-list"):
            await anna.ready(carl.peer_id)
        with pytest.raises(PeerUnreachable, match="not on the allow-list"):
            anna.send(carl.peer_id, b"")
        assert anna.stats["reject:stranger"] == 1
        assert carl.gone.empty(), "it was never there"
        await bora.ready(anna.peer_id)


@on_a_loop
async def test_one_link_stays_when_both_dial_at_once_and_no_frame_is_lost():
    async with nodes({}, {}, timeouts=Timeouts(close=5)) as (anna, bora):
        anna.knows(bora)
        bora.knows(anna)
        for _ in range(5):
            await asyncio.gather(anna.ready(bora.peer_id), bora.ready(anna.peer_id))
            for i in range(50):
                anna.send(bora.peer_id, bytes([i]))
                bora.send(anna.peer_id, bytes([i]))
                await asyncio.sleep(0)
            for node in (anna, bora):
                assert sorted(frame[0] for _, frame in await node.hear(50)) == list(range(50))
            await until(lambda: len(anna._open) == len(bora._open) == 1)
            assert anna.gone.empty()
            assert bora.gone.empty()
            next(iter(anna._open)).drop()
            assert await anna.gone.get() == bora.peer_id
            assert await bora.gone.get() == anna.peer_id


@on_a_loop
async def test_who_has_no_room_closes_the_link_used_least_lately():
    async with nodes(dict(limits=Limits(links=2)), {}, {}, {}) as (anna, *others):
        for other in others:
            anna.knows(other)
            await anna.ready(other.peer_id)
        await until(lambda: len(anna._open) == 2)
        assert await anna.gone.get() == others[0].peer_id
        assert await others[0].gone.get() == anna.peer_id
        assert anna.stats["links closed"] == 1
        await anna.ready(others[0].peer_id)  # and it can be had again
        await until(lambda: len(anna._open) == 2)


@on_a_loop
async def test_a_restarted_peer_is_found_again():
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        await anna.ready(bora.peer_id)
        await bora.close()
        assert await anna.gone.get() == bora.peer_id
        again = Node(1, port=bora.port)
        await again.start()
        try:
            await anna.ready(bora.peer_id)
            anna.send(bora.peer_id, b"back")
            assert await again.hear(1) == [(anna.peer_id, b"back")]
            assert anna.gone.empty()
        finally:
            await again.close()


@on_a_loop
async def test_who_was_dialled_learns_where_to_dial_back():
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        await anna.ready(bora.peer_id)
        await until(lambda: bora.reach(anna.peer_id) == "direct")
        next(iter(anna._open)).drop()
        assert await bora.gone.get() == anna.peer_id
        await bora.ready(anna.peer_id)
        bora.send(anna.peer_id, b"back")
        assert await anna.hear(1) == [(bora.peer_id, b"back")]


@on_a_loop
async def test_large_frames_of_who_was_dialled_find_a_second_lane():
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        await anna.ready(bora.peer_id)
        await until(lambda: bora._links)
        await bora.ready(anna.peer_id, 1 << 20)  # does not wait for it
        await until(lambda: len(bora.lanes()) == 2)
        assert bora.lanes() == [MAIN, BULK]


@on_a_loop
async def test_frames_beyond_the_limit_are_not_sent_and_not_heard():
    async with nodes(dict(limits=Limits(frame=1000)), {}) as (anna, bora):
        bora.knows(anna)
        with pytest.raises(FrameTooLarge, match="1,001 bytes: at most 1,000"):
            anna.send(bora.peer_id, bytes(1001))
        await bora.ready(anna.peer_id)
        bora.send(anna.peer_id, bytes(1000))
        bora.send(anna.peer_id, bytes(1001))
        assert await bora.gone.get() == anna.peer_id
        assert await anna.hear(1) == [(bora.peer_id, bytes(1000))]
        assert anna.inbox.empty()
        assert anna.stats["reject:oversize"] == 1
        await bora.ready(anna.peer_id)  # the node goes on


@on_a_loop
async def test_nobody_sends_while_there_is_no_room():
    async with nodes({}, {}, limits=Limits(buffer=100_000)) as (anna, bora):
        anna.knows(bora)
        most = 0

        async def push(i):
            nonlocal most
            await anna.ready(bora.peer_id, 50_000)
            anna.send(bora.peer_id, bytes([i]) * 50_000)
            most = max(most, anna._links[bora.peer_id, MAIN]._backlog())

        await asyncio.gather(*(push(i) for i in range(200)))
        assert sorted(frame[0] for _, frame in await bora.hear(200)) == list(range(200))
        assert most <= 100_000 + 51_000, "one at a time: waking all lets all send"


@on_a_loop
async def test_what_is_sent_into_a_full_backlog_is_dropped_and_counted():
    async with nodes({}, {}, limits=Limits(backlog=200_000), timeouts=QUICK) as (anna, bora):
        anna.knows(bora)
        for parked in (True, False):
            for _ in range(100):
                anna.send(bora.peer_id, bytes(50_000))
            dropped = anna.stats.pop("drop:backlog")
            assert 50 <= dropped < 100
            assert len(await bora.hear(100 - dropped)) == 100 - dropped, parked


@on_a_loop
async def test_a_handler_that_fails_costs_one_frame(caplog):
    caplog.set_level(logging.CRITICAL, "hubless")
    async with nodes({}, {}) as (anna, bora):
        anna.knows(bora)
        bora._frames.insert(0, lambda peer, frame: frame[0] / 0)
        bora._frames.append(lambda peer, frame: anna.send("22" * 32, b""))
        await anna.ready(bora.peer_id)
        anna.send(bora.peer_id, b"1")
        anna.send(bora.peer_id, b"2")
        assert [frame for _, frame in await bora.hear(2)] == [b"1", b"2"]
        assert bora.stats["failed handlers"] == 4
        assert bora.lanes() == [MAIN]


# what strangers try


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(1000), b"\xff" * 64]
)
@on_a_loop
async def test_who_does_not_introduce_himself_is_dropped(tls, said):
    async with nodes({}, {}, tls=tls, timeouts=QUICK) as (anna, bora):
        reader, writer = await asyncio.open_connection(anna.host, anna.port)
        writer.write(said)
        await over(reader, writer)
        await until(lambda: not anna._open and not anna._door.outside)
        refused = sum(count for reason, count in anna.stats.items() if reason.startswith("reject:"))
        assert refused == 1 or (said == b"\xff" * 64 and not tls)  # that is how a farewell begins
        bora.knows(anna)
        await bora.ready(anna.peer_id)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (introduction(8), "introduction"),
        (introduction(9, BULK), "introduction"),
        (LENGTH.pack(3) + b"abc", "introduction"),
        (LENGTH.pack(1 << 20), "oversize"),
        (introduction() + LENGTH.pack((16 << 20) + 1), "oversize"),
        (b"", "handshake"),
    ],
)
@on_a_loop
async def test_with_a_certificate_too(said, reason):
    async with nodes({}, timeouts=QUICK) as (anna,):
        reader, writer = await stranger(anna)
        writer.write(said)
        await over(reader, writer)
        await until(lambda: not anna._open)
        assert anna.stats == {f"reject:{reason}": 1}
        assert anna.inbox.empty()


@on_a_loop
async def test_a_peer_cannot_link_to_itself():
    async with nodes({}, timeouts=QUICK) as (anna,):
        contexts = Contexts.of(anna.identity)
        reader, writer = await stranger(anna, contexts=contexts)
        writer.write(introduction(0))
        await over(reader, writer)
        assert anna.stats["reject:oneself"] == 1


@on_a_loop
async def test_who_is_dialled_and_says_nothing_is_given_up():
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        async with nodes({}, timeouts=QUICK) as (anna,):
            anna.add_hint("11" * 32, [f"127.0.0.1:{silent.getsockname()[1]}"])
            with pytest.raises(PeerUnreachable, match="no answer"):
                await anna.ready("11" * 32)
            assert not anna._open
    finally:
        silent.close()


@pytest.mark.parametrize("begun", [b"\0", LENGTH.pack(1000) + b"x", LENGTH.pack(1 << 20) + bytes(70_000)])
@on_a_loop
async def test_a_frame_that_does_not_get_on_ends_the_link(begun):
    async with nodes({}, timeouts=QUICK) as (anna,):
        reader, writer = await stranger(anna)
        writer.write(introduction() + LENGTH.pack(2) + b"ok" + begun)
        await over(reader, writer)
        await until(lambda: not anna._open)
        assert anna.stats == {"reject:stalled": 1}
        assert (await anna.hear(1))[0][1] == b"ok"


@on_a_loop
async def test_a_trickle_is_no_progress_and_a_slow_frame_is():
    async with nodes({}, timeouts=QUICK, limits=Limits(bulk=1000)) as (anna,):
        (_, slow), (reader, trickle) = await stranger(anna, 8), await stranger(anna, 9)
        slow.write(introduction(8) + LENGTH.pack(20_000))
        trickle.write(introduction(9) + LENGTH.pack(20_000))
        for _ in range(20):  # about a second: both go on for several times what a stall may take
            slow.write(bytes(1000))
            trickle.write(b"x")
            await asyncio.sleep(0.05)
        assert len((await anna.hear(1))[0][1]) == 20_000
        await over(reader, trickle)
        assert anna.stats["reject:stalled"] == 1
        slow.close()
        await slow.wait_closed()


@on_a_loop
async def test_who_does_not_read_is_dropped_and_whoever_waits_for_room_is_told():
    async with nodes({}, timeouts=QUICK) as (anna,):
        peer = Identity.derived(0, 9).peer_id
        reader, writer = await stranger(anna)
        writer.write(introduction())
        await until(lambda: anna._links)
        writer.transport.pause_reading()

        async def push():
            while True:
                await anna.ready(peer)
                anna.send(peer, bytes(1 << 20))

        with pytest.raises(PeerUnreachable, match="link was lost"):
            await push()
        assert await anna.gone.get() == peer
        assert anna.stats["reject:stalled"] == 1
        writer.transport.abort()
        await over(reader, writer)


@on_a_loop
async def test_a_crowd_at_the_door_is_bounded():
    async with nodes(dict(limits=Limits(links=3)), timeouts=Timeouts(dial=0.5)) as (anna,):
        crowd = [await asyncio.open_connection(anna.host, anna.port) for _ in range(8)]
        await until(lambda: anna.stats["reject:crowd"] == 5)
        for reader, writer in crowd:
            await over(reader, writer)
        await until(lambda: sum(anna.stats.values()) == 8)
        assert anna.stats["reject:crowd"] == 5
        assert anna.stats["reject:handshake"] == 3


@on_a_loop
async def test_after_a_farewell_nothing_is_heard_and_what_waits_is_sent():
    async with nodes({}, timeouts=QUICK) as (anna,):
        reader, writer = await stranger(anna)
        writer.write(introduction())
        await until(lambda: anna._links)
        anna.send(Identity.derived(0, 9).peer_id, b"last")
        writer.write(LENGTH.pack(1) + b"x" + LENGTH.pack(LAST) + LENGTH.pack(1) + b"y")
        data = await reader.read()
        assert data.endswith(LENGTH.pack(4) + b"last" + LENGTH.pack(LAST))
        await over(reader, writer)
        assert await anna.hear(1) == [(Identity.derived(0, 9).peer_id, b"x")]
        assert anna.inbox.empty()
        assert await anna.gone.get() == Identity.derived(0, 9).peer_id
        assert not anna.stats


# closing, and bad options


@on_a_loop
async def test_closing_ends_every_wait_and_is_final():
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        async with nodes({}, {}) as (anna, bora):
            anna.knows(bora)
            await anna.ready(bora.peer_id)
            anna.add_hint("11" * 32, [f"127.0.0.1:{silent.getsockname()[1]}"])
            waiting = asyncio.create_task(anna.ready("11" * 32))
            await until(lambda: anna._dials)
            anna.send(bora.peer_id, b"last words")
            await anna.close()
            await anna.close()
            with pytest.raises(PeerUnreachable, match="closed"):
                await waiting
            with pytest.raises(PeerUnreachable, match="closed"):
                await anna.ready(bora.peer_id)
            with pytest.raises(PeerUnreachable):
                anna.send(bora.peer_id, b"")
            assert await bora.hear(1) == [(anna.peer_id, b"last words")]
            assert await bora.gone.get() == anna.peer_id
            assert anna.gone.empty(), "nobody left it: it left"
    finally:
        silent.close()


@on_a_loop
async def test_what_has_not_started_reaches_nobody():
    with pytest.raises(PeerUnreachable, match="has not started"):
        await Node(0).ready("11" * 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(port=-1), r"tcp.port = -1: must be 0 \(any\) to 65535"),
        (dict(port=65_536), r"tcp.port = 65536"),
        (dict(host=""), r"tcp.host = ''"),
        (dict(host="0.0.0.0", tls=False), r"tcp.tls = False: only on loopback, not on 0.0.0.0"),
        (dict(allow=frozenset({"anna"})), r"tcp.allow = 'anna': must be peer ids"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message):
    with pytest.raises(ConfigError, match=message):
        TcpTransport(Identity.derived(0, 0), **options)


@on_a_loop
async def test_an_address_that_cannot_be_had_is_named():
    async with nodes({}) as (anna,):
        with pytest.raises(ConfigError, match=rf"tcp.listen = 127.0.0.1:{anna.port}: Address already in use"):
            await Node(1, port=anna.port).start()


@on_a_loop
async def test_malformed_addresses_are_counted_and_known_ones_are_few():
    async with nodes(dict(limits=Limits(hints=3))) as (anna,):
        anna.add_hint("11" * 32, ["", "a", ":1", "a:", "a:0", "a:65536", "a:²", "x" * 300 + ":1", "b:1", "[::1]:2"])
        assert anna._hints.of("11" * 32) == ["b:1", "[::1]:2"]
        assert anna.stats["reject:address"] == 8
        anna.add_hint("11" * 32, [f"c:{port}" for port in range(1, 100)])
        assert len(anna._hints.of("11" * 32)) == 8
        for i in range(5):
            anna.add_hint(f"{i}", ["b:1"])
        assert [peer for peer in "1234" if peer in anna._hints] == ["2", "3", "4"]


@on_a_loop
async def test_all_interfaces_give_an_address_that_can_be_dialled():
    async with nodes({"host": "0.0.0.0"}, {}) as (anna, bora):
        assert not anna.addresses()[0].startswith("0.")
        bora.knows(anna)
        await bora.ready(anna.peer_id)


@on_a_loop
async def test_work_runs_beside_the_loop():
    import threading

    async with nodes({}) as (anna,):
        assert await anna.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await anna.run(lambda x: 1 / x, 0, cost=3)
        before = anna.now()
        await anna.sleep(0.01)
        assert anna.now() > before


def test_on_uvloop():
    uvloop = pytest.importorskip("uvloop", reason="the extra fast is not installed")

    async def main():
        async with nodes({}, {}) as (anna, bora):
            anna.knows(bora)
            for size in (3, 100_000, 5_000_000):
                await anna.ready(bora.peer_id, size)
                anna.send(bora.peer_id, bytes(size))
                await bora.hear(1)
                await bora.ready(anna.peer_id, size)
                bora.send(anna.peer_id, bytes(size))
                await anna.hear(1)
            with pytest.raises(PeerUnreachable):
                await anna.ready("11" * 32)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))
