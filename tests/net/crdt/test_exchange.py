from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError, IntegrityError, RemoteError, RequestTimeout
from hubless.net.crdt import deltas
from hubless.net.crdt.chain import FIRST, Op, proof
from hubless.net.crdt.messages import Hello, Same, Standing, There, Trade, Traded, Where, read_answer
from hubless.net.crdt.persistence import written
from hubless.net.crdt.replica import Replica
from hubless.net.crdt.store import CrdtStore
from hubless.net.crdt.values import wire
from hubless.net.identity import Identity
from hubless.net.policy import KIB, LIMITS, Limits
from hubless.net.transports.sim import Link

MEMBERS = [Identity.derived(5, i).peer_id for i in range(8)]
LIAR = Identity.derived(5, 7)  # a member that runs no store
PROTO = "crdt/doc"


def story(length, fork=None, text=""):
    """A chain of the liar's, as a snapshot: from ``fork`` on it says ``text``."""
    replica = Replica("doc")
    for n in range(length):
        replica.write(LIAR, deltas.Put("lies", str(n), text if fork is not None and n >= fork else "common"))
    return written("doc", LIAR.peer_id, replica.kept())


def test_an_exchange_goes_both_ways_and_is_short_when_there_is_nothing_to_say(on_bench):
    async def body(bench):
        one, two = bench.stores
        one.incr("n", 2), one.add("s", "left")
        two.incr("n", 3), two.add("s", "right"), two.set("m", "k", 1)
        await one.exchange(two.net.peer_id)
        assert bench.equal()
        assert one.value("n") == 5
        assert one.value("s") == ["left", "right"]
        sent = one.net.stats["frames"]
        await one.exchange(two.net.peer_id)
        assert one.net.stats["frames"] == sent + 1, "one question: the same?"

    on_bench(body, 2)


def test_much_goes_in_pages(on_bench):
    async def body(bench):
        one, two = bench.stores
        for n in range(40):
            one.set("m", str(n), bytes(20_000))
            two.set("m", str(100 + n), bytes(20_000))
        sent, size = two.net.stats["frames"], two.net.stats["bytes"]
        await two.exchange(one.net.peer_id)
        assert bench.equal()
        assert two.lengths() == {net.peer_id: 40 for net in sorted(bench.nets, key=lambda net: net.peer_id)}
        frames, volume = two.net.stats["frames"] - sent, two.net.stats["bytes"] - size
        assert volume < 900_000
        assert frames > 1 + volume / (one.net.limits.page + LIMITS.op)

    on_bench(body, 2, limits=Limits(page=2 * LIMITS.op + KIB))


@pytest.mark.parametrize(
    ("left", "right", "cut"),
    [
        ((300, 150, "a"), (300, 150, "b"), 150),
        ((300, 150, "a"), (160, 150, "b"), 150),
        ((160, 150, "a"), (300, 150, "b"), 150),
        ((1, 0, "a"), (1, 0, "b"), 0),
        ((900, 701, "a"), (899, 701, "b"), 701),
    ],
)
def test_two_stories_are_cut_where_they_part(on_bench, left, right, cut):
    async def body(bench):
        one, two = bench.stores
        one.load(story(*left)), two.load(story(*right))
        one.set("lies", "mine", 1)
        before = one.net.stats["frames"]
        await one.exchange(two.net.peer_id)
        assert one.net.stats["frames"] - before < 16
        await two.exchange(one.net.peer_id)
        assert bench.equal()
        assert one.lengths().get(LIAR.peer_id, 0) == cut
        assert len(one.value("lies")) == cut + 1
        signed = [Op(*pair) for pair in (msgspec.msgpack.decode(p) for p in two.equivocators[LIAR.peer_id])]
        assert all(op.holds() for op in signed)
        assert proof(*signed) == cut, "anybody can check it"

    on_bench(body, 2)


def test_evidence_reaches_who_has_seen_one_story_or_none(on_bench):
    async def body(bench):
        for store, (length, fork, text) in zip(bench.stores, [(9, 6, "a"), (8, 6, "b"), (7, 3, "c")], strict=False):
            store.load(story(length, fork, text))
        await bench.sweep(3)
        assert bench.equal()
        assert bench.stores[3].lengths() == {LIAR.peer_id: 3}
        assert all(list(store.equivocators) == [LIAR.peer_id] for store in bench.stores)
        bench.stores[3].load(story(9, 2, "d"))  # one more lie makes it lower
        await bench.sweep(2)
        assert bench.equal()
        assert bench.stores[0].lengths() == {LIAR.peer_id: 2}

    on_bench(body, 4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32))
def test_replicas_converge_whatever_the_network_did(on_bench, seed):
    """Loss, duplicates, reordering, partitions, and an actor with up to three stories."""
    random = Random(seed)

    async def body(bench):
        told = {}
        for number in range(random.randrange(4)):
            store = random.choice(bench.stores)
            store.load(story(random.randrange(1, 7), random.randrange(6), "abc"[number]))
        ids = [net.peer_id for net in bench.nets]
        for _ in range(random.randrange(12)):
            if random.random() < 0.3:
                random.shuffle(ids)
                at = random.randrange(len(ids))
                bench.world.partition([ids[:at], ids[at:]])
            store = random.choice(bench.stores)
            write = random.choice(["incr", "add", "remove", "set", "assign"])
            if write == "incr":
                store.incr("n")
                told[store] = told.get(store, 0) + 1
            elif write in ("add", "remove"):
                getattr(store, write)("s", random.randrange(3))
            elif write == "set":
                store.set("m", str(random.randrange(3)), random.random())
            else:
                store.assign("r", random.randrange(9))
            if random.random() < 0.6:
                try:
                    await random.choice(bench.stores).exchange(random.choice(ids))
                except (RequestTimeout, RemoteError):
                    pass
                except IntegrityError as error:
                    raise AssertionError("an honest answer was not read") from error
        bench.world.heal()
        for _ in range(6):
            for store in bench.stores:
                for peer in sorted(ids):
                    if peer != store.net.peer_id:
                        try:
                            await store.exchange(peer)
                        except RequestTimeout:
                            continue
        assert bench.equal()
        assert (bench.stores[0].value("n") or 0) == sum(told.values())
        assert set(bench.stores[0].equivocators) <= {LIAR.peer_id}

    rough = Link(latency=(0.01, 0.2), jitter=0.05, loss=0.1, duplicate=0.1, reorder=0.1)
    on_bench(body, 4, link=rough, seed=seed)


JUNK = [b"", b"\xc1", b"\x91\xa5hello", b"\x92\xa5trade\xc0", wire(Same()), wire(Hello(bytes(32)))[:-1], bytes(5000)]


@pytest.mark.parametrize("junk", JUNK)
def test_questions_that_cannot_be_read_are_counted(on_bench, junk):
    async def body(bench):
        one, two = bench.stores
        two.incr("n")
        answer = read_answer(await one.net.request(two.net.peer_id, PROTO, junk))
        assert answer.reason == "malformed"
        assert two.counts == {"malformed": 1}
        await one.exchange(two.net.peer_id)
        assert one.value("n") == 1

    on_bench(body, 2)


def test_hostile_questions_change_nothing(on_bench):
    async def body(bench):
        one, two = bench.stores
        two.incr("n")
        ask = lambda question: one.net.request(two.net.peer_id, PROTO, wire(question))  # noqa: E731
        good = Op.signed(LIAR, "doc", 0, 1, deltas.Grow("g", 1), FIRST)
        stranger = Op.signed(Identity.derived(99, 0), "doc", 0, 1, deltas.Grow("g", 1), FIRST)
        before = two.canonical()
        await ask(Trade([(good.body, bytes(64))]))
        await ask(Trade([stranger.pair()]))
        await ask(Trade([(b"junk", bytes(64))]))
        await ask(Trade([], [(good.pair(), good.pair())]))
        await ask(Trade([], [(good.pair(), (b"junk", bytes(64)))]))
        await ask(Trade([], [(good.pair(), (good.body, bytes(64)))] * 3))
        await ask(Trade([], [], {bytes(32): (5, FIRST)}, [bytes(32)]))
        there = read_answer(await ask(Where(bytes(32), [0, 2**62])))
        assert there.hashes == [FIRST, FIRST]
        assert two.canonical() == before
        assert two.counts == {"signature": 2, "stranger": 1, "malformed": 2}
        big = await one.net.request(two.net.peer_id, PROTO, bytes(3 * LIMITS.page))
        assert read_answer(big).reason == "oversize"
        assert not two.equivocators

    on_bench(body, 2)


def test_strangers_are_refused(on_bench):
    async def body(bench):
        one, two = bench.stores
        with pytest.raises(RemoteError, match="stranger"):
            await one.exchange(two.net.peer_id)
        assert two.counts == {"stranger": 1}
        with pytest.raises(RemoteError, match="no member"):
            await two.exchange(one.net.peer_id)

    def make(net, **options):
        first = not made
        made.append(net.peer_id)
        return CrdtStore(net, "doc", lambda: made if first else made[1:], **options)

    made = []
    on_bench(body, 2, make=make)


@pytest.mark.parametrize(
    "reply",
    [
        lambda question: b"junk",
        lambda question: wire(There([])),
        lambda question: bytes(3 * LIMITS.page),
        lambda question: wire(Traded([], [], [])),
    ],
)
def test_answers_that_cannot_be_read_are_errors_and_counted(on_bench, reply):
    async def body(bench):
        (store,) = bench.stores[:1]
        bench.stores[1].close()
        bench.nets[1].serve(PROTO, lambda ctx, body: reply(body))
        with pytest.raises(IntegrityError, match=bench.nets[1].peer_id[:8]):
            await store.exchange(bench.nets[1].peer_id)
        assert store.counts == {"malformed": 1}

    on_bench(body, 2)


def test_a_peer_that_promises_everything_and_gives_nothing_ends_the_exchange(on_bench):
    forged = Op.signed(LIAR, "doc", 0, 1, deltas.Grow("g", 1), FIRST).body, bytes(64)
    actor = bytes.fromhex(LIAR.peer_id)

    async def body(bench):
        store, asked = bench.stores[0], []

        def promise(ctx, body):
            asked.append(body)
            question = msgspec.msgpack.decode(body)
            if question[0] == "hello":
                return wire(Standing({actor: (2**40, bytes(32)), bytes(32): (1, FIRST)}, {actor: 3}))
            if question[0] == "where":
                return wire(There([bytes(32)] * len(question[2])))
            return wire(Traded([forged], [], [actor, bytes(32)]))

        bench.stores[1].close()
        bench.nets[1].serve(PROTO, promise)
        store.incr("n")
        await store.exchange(bench.nets[1].peer_id)
        assert len(asked) < 8
        assert store.lengths() == {store.net.peer_id: 1}
        assert store.counts["signature"] >= 1
        assert not store.equivocators

    on_bench(body, 2)


def test_a_silent_peer_costs_two_waits_and_a_lost_frame_one(on_bench):
    async def body(bench):
        one, two = bench.stores
        await one.exchange(two.net.peer_id)
        two.incr("n")
        bench.world.cut(two.net.peer_id)
        began = one.net.now()
        with pytest.raises(RequestTimeout):
            await one.exchange(two.net.peer_id, timeout=1.5)
        assert one.net.now() - began == pytest.approx(3.0)

        async def back():
            await one.net.sleep(0.5)
            bench.world.revive(two.net.peer_id)

        one.net.spawn(back(), "back")
        await one.exchange(two.net.peer_id)
        assert one.value("n") == 1

    on_bench(body, 2)


def test_a_peer_that_never_comes_to_an_end_holds_nobody_up(on_bench):
    async def body(bench):
        one, slow, three = bench.stores

        asked, story = {}, Replica("doc")
        chain = [story.write(LIAR, deltas.Grow("g", n)).pair() for n in range(100)]

        async def answer(ctx, body):
            asked[body] = asked.get(body, 0) + 1
            await slow.net.sleep(1.5 if asked[body] % 2 else 0.1)  # in time only when it is asked again
            question = msgspec.msgpack.decode(body)
            if question[0] == "hello":
                return wire(Standing({bytes.fromhex(LIAR.peer_id): (2**40, bytes(32))}, {}))
            return wire(Traded([chain[start] for start, _ in question[3].values()], [], []))

        slow.close()
        slow.net.serve(PROTO, answer)
        began = one.net.now()
        with pytest.raises(RequestTimeout, match="does not end"):
            await one.exchange(slow.net.peer_id)
        assert one.net.now() - began < 70
        ours = CrdtStore(three.net, "other", lambda: MEMBERS[:3], every=1.0)
        theirs = CrdtStore(one.net, "other", lambda: MEMBERS[:3], every=1.0)
        slow.net.serve("crdt/other", answer)
        ours.incr("n")
        await one.net.sleep(8)
        assert theirs.value("n") == 1, "others are asked meanwhile"

    on_bench(body, 3)


def test_on_a_slow_link_pages_become_small_enough(on_bench):
    async def body(bench):
        one, two = bench.stores
        for n in range(30):
            one.set("m", str(n), bytes(10_000))
        failed = 0
        while not bench.equal():
            try:
                await two.exchange(one.net.peer_id)
            except RequestTimeout:
                failed += 1
            assert failed < 6
        assert failed >= 1

    on_bench(body, 2, link=Link(latency=0.01, bandwidth=50_000))


def test_a_document_says_that_frames_are_too_small_for_it(on_bench):
    async def body(bench):
        bench.nets[0].max_frame = 4 * LIMITS.op
        with pytest.raises(ConfigError, match="max_frame"):
            CrdtStore(bench.nets[0], "other", list)

    on_bench(body, 1)
