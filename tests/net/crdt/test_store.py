import msgspec
import pytest

from hubless.errors import ConfigError, IntegrityError, PeerUnreachable, RecordRefused
from hubless.net.crdt import deltas, store
from hubless.net.crdt.chain import FIRST, Op
from hubless.net.crdt.persistence import written
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity
from hubless.net.policy import LIMITS
from hubless.net.transports.sim import Link


def test_what_is_written_is_read(on_bench):
    async def body(bench):
        (doc,) = bench.stores
        doc.incr("n", 5), doc.incr("n", -2)
        doc.grow("total", 4)
        doc.add("s", "a"), doc.add("s", ["b", 1]), doc.add("s", "c"), doc.remove("s", "c"), doc.remove("s", "never")
        doc.set("m", "k", {"x": b"1"}), doc.set("m", "gone", 1), doc.unset("m", "gone")
        doc.assign("r", 1), doc.assign("r", 2)
        assert [doc.value(name) for name in ("n", "total", "m", "r", "nobody")] == [3, 4, {"k": {"x": b"1"}}, [2], None]
        assert sorted(map(str, doc.value("s"))) == ["['b', 1]", "a"]
        assert doc.lengths() == {doc.net.peer_id: 12}, "what was never in the set needs no operation"

    on_bench(body, 1)


def test_names_of_different_kinds_are_different_states(on_bench):
    async def body(bench):
        (doc,) = bench.stores
        doc.set("x", "k", 1), doc.incr("x")
        assert (doc.value("x"), doc.value("x", "map"), doc.value("x", "counter")) == (1, {"k": 1}, 1)
        assert doc.value("x", "set") is None
        with pytest.raises(ConfigError, match="did you mean 'counter'"):
            doc.value("x", "conter")

    on_bench(body, 1)


def test_the_later_write_wins_by_what_was_seen_not_by_the_clock(on_bench):
    async def body(bench):
        one, two = bench.stores
        for _ in range(5):
            one.set("m", "k", "early")
        await one.exchange(two.net.peer_id)
        two.net.now = lambda: 0.0  # its clock is decades behind
        two.set("m", "k", "after having seen it")
        await one.exchange(two.net.peer_id)
        assert one.value("m") == {"k": "after having seen it"} == two.value("m")

    on_bench(body, 2)


def test_members_converge_by_themselves(on_bench):
    async def body(bench):
        for number, doc in enumerate(bench.stores):
            doc.incr("n", number), doc.add("s", number)
        await bench.nets[0].sleep(12)
        assert bench.equal()
        assert bench.stores[0].value("n") == 15
        bench.stores[3].close()
        bench.stores[3].close()
        bench.stores[0].incr("n")
        await bench.nets[0].sleep(12)
        assert [doc.value("n") for doc in bench.stores] == [16, 16, 16, 15, 16, 16], "it has stopped"
        assert bench.stores[0].counts["failed"] > 0

    on_bench(body, 6, every=1.0, link=Link(latency=(0.02, 0.15), loss=0.02))


def test_a_store_alone_waits_for_members(on_bench):
    members = []

    async def body(bench):
        one, two = bench.stores
        one.incr("n")
        await one.net.sleep(5)
        members.extend(net.peer_id for net in bench.nets)
        await one.net.sleep(5)
        assert two.value("n") == 1

    on_bench(body, 2, every=0.5, make=lambda net, **options: CrdtStore(net, "doc", lambda: members, **options))


def test_an_exchange_with_nobody_there_fails_with_a_reason(on_bench):
    async def body(bench):
        await bench.nets[1].close()
        with pytest.raises(PeerUnreachable):
            await bench.stores[0].exchange(bench.nets[1].peer_id)

    on_bench(body, 2)


def test_a_snapshot_carries_everything_and_is_checked(on_bench):
    async def body(bench):
        one, two, three = bench.stores
        one.incr("n", 3), two.add("s", 1)
        liar = Identity.derived(5, 7)
        for doc, n in ((one, 1), (two, 2)):
            op = Op.signed(liar, "doc", 0, 1, deltas.Grow("g", n), FIRST)
            doc.load(written("doc", liar.peer_id, [(op,)]))
        await one.exchange(two.net.peer_id)
        saved = one.snapshot()
        three.load(saved)
        assert three.canonical() == one.canonical()
        assert list(three.equivocators) == [liar.peer_id]
        three.load(saved)
        assert three.canonical() == one.canonical()
        for broken in (b"", saved[:-1], saved[:40], b"x" + saved, saved[:100] + b"?" + saved[101:]):
            with pytest.raises(IntegrityError, match="snapshot"):
                three.load(broken)
        with pytest.raises(IntegrityError, match="another"):
            three.load(written("another", liar.peer_id, []))
        op = Op.signed(one.net.identity, "doc", 1, 9, deltas.Grow("g", 7), FIRST)
        stranger = Op.signed(Identity.derived(9, 9), "doc", 0, 1, deltas.Grow("g", 7), FIRST)
        three.load(written("doc", "", [(Op(op.body, bytes(64)),), (stranger,)]))
        assert three.counts == {"signature": 1, "stranger": 1}
        assert three.canonical() == one.canonical()

    on_bench(body, 3)


def test_own_operations_that_were_lost_here_come_back_from_others(on_bench):
    async def body(bench):
        one, two = bench.stores
        one.incr("n", 3), one.incr("n", 4)
        await one.exchange(two.net.peer_id)
        one.close()
        again = CrdtStore(one.net, "doc", two._members, every=0)
        await again.exchange(two.net.peer_id)
        again.incr("n")
        await again.exchange(two.net.peer_id)
        assert two.value("n") == 8
        assert not two.equivocators

    on_bench(body, 2)


def test_more_was_seen_than_one_operation_can_name(on_bench, monkeypatch):
    monkeypatch.setattr(store, "SEEN", 3)

    async def body(bench):
        for number, doc in enumerate(bench.stores):
            doc.add("s", "x"), doc.assign("r", number)
        await bench.sweep(2)
        one = bench.stores[0]
        assert len(one.value("r")) == 8
        one.assign("r", "settled"), one.remove("s", "x")
        bench.stores[1].add("s", "x")
        assert (one.value("r"), one.value("s")) == (["settled"], [])
        await bench.sweep(1)
        assert bench.equal()
        assert one.value("s") == ["x"]

    on_bench(body, 8)


@pytest.mark.parametrize(
    ("doc", "options", "message"),
    [
        ("", {}, "doc = ''"),
        ("x" * 60, {}, "doc = "),
        ("d", {"every": -1.0}, "every = -1.0"),
        ("d", {"every": float("nan")}, "every = nan"),
        ("d", {"every": float("inf")}, "every = inf"),
        ("doc", {}, "served already"),
    ],
)
def test_options_that_cannot_be(on_bench, doc, options, message):
    async def body(bench):
        with pytest.raises(ConfigError, match=message):
            CrdtStore(bench.nets[0], doc, list, **options)

    on_bench(body, 1)


def test_writes_that_cannot_be_change_nothing(on_bench):
    async def body(bench):
        (doc,) = bench.stores
        for write in (
            lambda: doc.set("m", "k", {1, 2}),
            lambda: doc.set("m", 3, 1),
            lambda: doc.set("m", "k", 2**64),
            lambda: doc.add("s", object()),
            lambda: doc.assign("", 1),
            lambda: doc.incr("x" * 65),
            lambda: doc.grow("g", -1),
            lambda: doc.incr("n", 2**63),
        ):
            with pytest.raises(ConfigError):
                write()
        with pytest.raises(RecordRefused, match=str(LIMITS.op)):
            doc.set("m", "k", bytes(LIMITS.op))
        assert doc.lengths() == {}
        doc.incr("n")
        assert doc.value("n") == 1

    on_bench(body, 1)


def test_who_told_two_stories_cannot_write_any_more(on_bench):
    async def body(bench):
        one, two = bench.stores
        one.incr("n")
        twin = Op.signed(one.net.identity, "doc", 0, 1, deltas.Grow("g", 7), FIRST)
        two.load(written("doc", "", [(twin,)]))
        await one.exchange(two.net.peer_id)
        assert list(one.equivocators) == [one.net.peer_id]
        with pytest.raises(IntegrityError, match="two stories"):
            one.incr("n")
        two.incr("n")
        await two.exchange(one.net.peer_id)
        assert one.value("n") == 1
        assert bench.equal()
        assert msgspec.msgpack.decode(one.equivocators[one.net.peer_id][0])

    on_bench(body, 2)
