"""Rows of rounds on a simulated network."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.row_exchange import EARLY, RowExchange
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim


class Ring:
    """Peers that swap rows with all others."""

    def __init__(self, n, period=10.0, link=None, max_frame=None, **more):
        world = {"link": link or Link(latency=(0.02, 0.15))} | ({"max_frame": max_frame} if max_frame else {})
        self.world = SimWorld(0, **world)
        self.identities = sorted((Identity.derived(0, i) for i in range(n)), key=lambda one: one.peer_id)
        self.ids = [one.peer_id for one in self.identities]
        self.period, self.more = period, more

    async def __aenter__(self):
        self.nets = [await Network(SimTransport(self.world, one.peer_id), one).start() for one in self.identities]
        self.start = self.nets[0].now() + 1
        self.rows = [RowExchange(net, "t", start=self.start, period=self.period, **self.more) for net in self.nets]
        await self.nets[0].sleep(1)
        return self

    async def __aexit__(self, *_):
        for net in self.nets:
            await net.close()

    def others(self, i):
        return [peer for peer in self.ids if peer != self.ids[i]]

    async def swap(self, i, r, **more):
        return await self.rows[i].swap(r, f"{i}/{r}".encode(), self.others(i), self.others(i), **more)

    def now(self):
        return self.nets[0].now() - self.start

    def put(self, i, to, row, stage=0):
        """A frame of an exchange, made by hand."""
        body = row if isinstance(row, bytes) else msgspec.msgpack.encode(row)
        self.nets[i].send(self.ids[to], "rows/t", body)


def ring(n, play, **more):
    async def main():
        async with Ring(n, **more) as peers:
            return await play(peers)

    return run_sim(main())


def test_a_round_ends_as_soon_as_all_rows_are_there():
    async def play(ring):
        for r in range(3):
            got = await asyncio.gather(*(ring.swap(i, r) for i in range(4)))
            for i, rows in enumerate(got):
                assert rows == {ring.ids[j]: f"{j}/{r}".encode() for j in range(4) if j != i}
                assert list(rows) == sorted(rows)
        assert ring.now() < 3 * 0.5
        assert not any(rows.counts for rows in ring.rows)

    ring(4, play)


def test_a_round_ends_at_its_absolute_time_where_a_row_is_missing():
    async def play(ring):
        got = await asyncio.gather(*(ring.swap(i, 0) for i in range(3)))
        assert ring.now() == pytest.approx(10)
        assert all(ring.ids[3] not in rows and len(rows) == 2 for rows in got)
        await asyncio.gather(*(ring.swap(i, 1, stage=0, stages=4) for i in range(3)))
        assert ring.now() == pytest.approx(12.5)
        await asyncio.gather(*(ring.swap(i, 1, stage=3, stages=4) for i in range(3)))
        assert ring.now() == pytest.approx(20)

    ring(4, play)


def test_a_straggler_makes_nobody_else_late():
    """With waits counted from each peer's own start, its neighbours would be late, and theirs after them."""

    async def play(ring):
        async def peer(i):
            r = 0
            while r < 20:
                await ring.nets[i].sleep(3.5 if i == 0 else 0.3)  # training; a round has 1 s
                if i == 0 and ring.rows[i].current() > r:
                    r = ring.rows[i].current()
                    continue
                await ring.swap(i, r)
                r = max(r + 1, ring.rows[i].current())

        await asyncio.gather(*(peer(i) for i in range(8)))
        late = [rows.late for rows in ring.rows]
        assert sum(late) <= 8 * 20 / 3.5
        assert ring.rows[0].late == 0 or max(late[1:]) <= 20 / 3.5 + 1
        assert ring.now() < 21.5

    ring(8, play, period=1.0)


def test_a_late_row_is_dropped_and_counted():
    async def play(ring):
        await asyncio.gather(ring.swap(0, 0), ring.swap(1, 0))
        await ring.nets[2].sleep(0.1)
        await ring.swap(2, 0)
        await ring.nets[2].sleep(1)
        assert [rows.late for rows in ring.rows] == [1, 1, 0]
        assert ring.rows[0].counts == {"late": 1}

    ring(3, play)


def test_who_fell_behind_rejoins_at_the_current_round():
    async def play(ring):
        assert ring.rows[0].current() == 0
        await ring.nets[0].sleep(25)
        assert ring.rows[0].current() == 2
        for rows in ring.rows[1:]:  # the others run ahead of the schedule
            ring.rows[0].heard(rows.net.peer_id, 7)
        assert ring.rows[0].current() == 7
        before = ring.now()
        await ring.swap(0, 5)  # most are two rounds ahead: no wait
        assert ring.now() == before

    ring(4, play)


def test_one_liar_does_not_set_the_round():
    async def play(ring):
        for i, r in ((1, 3), (2, 1 << 30), (3, 3)):
            ring.rows[0].heard(ring.ids[i], r)
        assert ring.rows[0].current() == 3

    ring(4, play)


def test_a_peer_that_is_gone_is_not_waited_for_until_it_is_heard():
    async def play(ring):
        for i in (1, 2, 3):
            ring.rows[0].heard(ring.ids[i])
        ring.rows[0].gone(ring.ids[3])
        await asyncio.gather(*(ring.swap(i, 0) for i in (0,)), *(_send(ring, i, 0) for i in (1, 2)))
        assert ring.now() < 1
        _, got, _, _ = await asyncio.gather(_send(ring, 3, 1), ring.swap(0, 1), _send(ring, 1, 1), _send(ring, 2, 1))
        assert len(got) == 3

    ring(4, play)


async def _send(ring, i, r, after=0.0):
    await ring.nets[i].sleep(after)
    await ring.rows[i].swap(r, f"{i}/{r}".encode(), ring.others(i), [])


def test_who_is_cut_off_keeps_to_the_schedule():
    """Else it would run through all rounds alone, and be far ahead when it is back."""

    async def play(ring):
        for i in (1, 2, 3):
            ring.rows[0].heard(ring.ids[i])
        for i in (1, 2, 3):
            ring.rows[0].gone(ring.ids[i])
        assert ring.rows[0].cut_off
        await ring.swap(0, 0)
        assert ring.now() == pytest.approx(10)

    ring(4, play)


def test_patience_ends_a_wait_that_the_schedule_would_draw_out():
    async def play(ring):
        await asyncio.gather(ring.swap(0, 50), _send(ring, 1, 50), _send(ring, 2, 50))
        assert 2 <= ring.now() < 2.5  # not 510
        before = ring.now()
        await asyncio.gather(ring.swap(0, 51), _send(ring, 1, 51), _send(ring, 2, 51))
        assert ring.now() < before + 0.5, "who was waited for in vain is not waited for again"
        _, _, _, got = await asyncio.gather(
            _send(ring, 1, 52), _send(ring, 2, 52), _send(ring, 3, 52), ring.swap(0, 52, stage=0, stages=1)
        )
        await _send(ring, 3, 52)
        await ring.nets[0].sleep(1)
        got, *_ = await asyncio.gather(
            ring.swap(0, 53), _send(ring, 1, 53), _send(ring, 2, 53), _send(ring, 3, 53, after=1)
        )
        assert len(got) == 3, "back in step, it is waited for"

    ring(4, play, patience=2.0)


def test_rows_that_come_before_their_exchange_are_kept():
    async def play(ring):
        await _send(ring, 1, 0)
        await _send(ring, 1, 1)
        await ring.nets[0].sleep(1)
        for r in (0, 1):
            got = await ring.rows[0].swap(r, b"", [], [ring.ids[1]])
            assert got == {ring.ids[1]: f"1/{r}".encode()}

    ring(2, play)


def test_memory_is_bounded_whatever_is_sent():
    async def play(ring):
        for r in range(3 * EARLY):
            ring.put(1, 0, [r + 5, 0, bytes(100), b""])
        ring.put(1, 0, [5, 0, b"again", b""])
        await ring.nets[0].sleep(1)
        counts = ring.rows[0].counts
        assert counts == {"too early": 2 * EARLY, "doubled": 1}
        await ring.rows[0].swap(100, b"", [], [])
        assert counts["unexpected"] == EARLY
        assert not ring.rows[0]._early

    ring(2, play)


def test_what_nobody_expects_is_dropped_and_counted():
    async def play(ring):
        swap = ring.nets[0].spawn(ring.rows[0].swap(0, b"", [], [ring.ids[1]]), "swap")
        await ring.nets[0].sleep(0)
        ring.put(2, 0, [0, 0, b"from a stranger", b""])
        await ring.nets[0].sleep(1)
        ring.put(1, 0, [0, 0, b"row", b""])
        assert await swap == {ring.ids[1]: b"row"}
        assert ring.rows[0].counts == {"unexpected": 1}

    ring(3, play)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x93", [0, 0], [-1, 0, b"", b""], [1 << 40, 0, b"", b""], [0, 1 << 20, b"", b""],
     [0, 0, b"", b"short"], ["0", 0, b"", b""], [0, 0, b"", b"", 1], {"round": 0}],
)  # fmt: skip
def test_malformed_rows_are_dropped_and_counted(body):
    async def play(ring):
        ring.put(1, 0, body)
        await ring.nets[0].sleep(1)
        assert ring.rows[0].counts == {"malformed": 1}

    ring(2, play)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise(body):
    async def play(ring):
        ring.put(1, 0, body)
        await ring.nets[0].sleep(1)
        assert not [name for name in ring.nets[0].stats if name.startswith("failed")]

    ring(2, play)


def test_a_row_that_no_frame_can_hold_goes_as_a_blob():
    async def play(ring):
        row = bytes(range(256)) * 4000
        got = await asyncio.gather(
            ring.rows[0].swap(0, row, [ring.ids[1]], [ring.ids[1]]), ring.rows[1].swap(0, b"", *[[ring.ids[0]]] * 2)
        )
        assert got[1] == {ring.ids[0]: row}
        assert ring.now() < 10

    ring(2, play, max_frame=300 << 10)


def test_a_reference_to_nothing_ends_with_the_round():
    async def play(ring):
        swap = ring.nets[0].spawn(ring.rows[0].swap(0, b"", [], [ring.ids[1]]), "swap")
        await ring.nets[0].sleep(0)
        ring.put(1, 0, [0, 0, b"", bytes(32)])
        assert await swap == {}
        assert ring.now() == pytest.approx(10)
        await ring.nets[0].sleep(100)
        assert ring.rows[0].counts == {"not fetched": 1}

    ring(2, play)


def test_rows_of_one_each():
    async def play(ring):
        _, one, two = await asyncio.gather(
            ring.rows[0].swap(0, {ring.ids[1]: b"one", ring.ids[2]: b"two"}, ring.ids[1:], []),
            ring.rows[1].swap(0, b"", [], ring.ids[:1]),
            ring.rows[2].swap(0, b"", [], ring.ids[:1]),
        )
        assert [*one.values(), *two.values()] == [b"one", b"two"]

    ring(3, play)


def test_a_lossy_link_loses_rows_and_no_round():
    async def play(ring):
        for r in range(20):
            await asyncio.gather(*(ring.swap(i, r) for i in range(4)))
        assert ring.now() <= 20.001

    ring(4, play, period=1.0, link=Link(latency=(0.02, 0.15), loss=0.05, duplicate=0.1))


@pytest.mark.parametrize("bad", [{"period": 0.0}, {"period": float("nan")}, {"patience": -1.0}, {"most": 0}])
def test_bad_settings_are_refused(bad):
    async def play(ring):
        with pytest.raises(ConfigError, match=f"{next(iter(bad))} = "):
            RowExchange(ring.nets[0], "other", **{"start": 0.0, "period": 1.0} | bad)
        with pytest.raises(ConfigError, match="a row of 9 bytes"):
            await RowExchange(ring.nets[0], "more", start=0.0, period=1.0, most=8).swap(0, bytes(9), ring.ids[1:], [])

    ring(2, play)
