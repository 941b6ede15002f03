from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import IntegrityError
from hubless.net.crdt import deltas
from hubless.net.crdt.chain import FIRST, LATEST, Op
from hubless.net.crdt.replica import KNOWN, TAKEN, Replica
from hubless.net.identity import Identity

ACTORS = [Identity.derived(7, i) for i in range(4)]
ME, LIAR = ACTORS[0], ACTORS[3]


def write(replica, actor, n=1):
    return replica.write(actor, deltas.Tally("n", n, 0))


def delta_of(random, replica, actor):
    """A write of any kind, by what the replica holds."""
    seq, item = len(replica.chains.get(actor.peer_id, [])), random.randrange(3)
    items = replica.state("set", "s")
    return random.choice(
        [
            deltas.Tally("n", seq + 1, item),
            deltas.Grow("g", seq),
            deltas.Put("m", str(item), seq),
            deltas.Drop("m", str(item)),
            deltas.Add("s", item, deltas.grouped(items.dots(item))),
            deltas.Remove("s", deltas.grouped(items.dots(item))),
            deltas.Assign("r", item, deltas.grouped(replica.state("register", "r").live)),
        ]
    )


def pool_of(random, writes):
    """Operations of honest actors, and of one that tells stories that fork at random places."""
    replicas, pool = [Replica("doc") for _ in ACTORS], []
    stories = [Replica("doc"), Replica("doc"), Replica("doc")]
    for _ in range(random.randrange(4)):  # what they have in common
        pool.append(stories[0].write(LIAR, delta_of(random, stories[0], LIAR)))
    for op in pool:
        stories[1].offer(op), stories[2].offer(op)
    for _ in range(writes):
        actor = random.randrange(len(ACTORS))
        replica = random.choice(stories) if ACTORS[actor] is LIAR else replicas[actor]
        pool.append(replica.write(ACTORS[actor], delta_of(random, replica, ACTORS[actor])))
        if random.random() < 0.7:
            told = random.choice(replicas + stories)
            for op in random.sample(pool, len(pool)):
                if op.actor != LIAR.peer_id or told not in stories:
                    told.offer(op)
    if random.random() < 0.5 and pool:  # one that names a predecessor that nobody has
        pool.append(Op.signed(LIAR, "doc", random.randrange(1, 4), 9, deltas.Grow("g", 1), bytes(range(32))))
    return pool


def told_all(pool, random):
    replica = Replica("doc")
    for _ in range(len(pool) + 3):  # what comes before its turn is dropped and comes again
        for op in random.sample(pool, len(pool)) + random.sample(pool, len(pool) // 2):
            replica.offer(op)
    return replica


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 16))
def test_replicas_that_saw_the_same_are_the_same_in_whatever_order(seed, writes):
    random = Random(seed)
    pool = pool_of(random, writes)
    one, other = told_all(pool, random), told_all(pool, random)
    assert one.canonical() == other.canonical()
    assert one.standing() == other.standing()
    assert set(one.evidence) <= {LIAR.peer_id}, "nobody honest is cut"
    afresh = Replica("doc")
    for ops in one.kept():
        afresh.take(ops)
    assert afresh.canonical() == one.canonical()
    for actor in ACTORS[:3]:
        assert len(one.chains.get(actor.peer_id, [])) == sum(op.actor == actor.peer_id for op in pool)


def test_an_actor_is_cut_at_the_lowest_seq_and_the_state_folded_without():
    honest, twin, replica = Replica("doc"), Replica("doc"), Replica("doc")
    common = write(honest, LIAR, 1)
    twin.offer(common)
    left, right = [write(honest, LIAR, n) for n in (2, 3, 4)], [write(twin, LIAR, n) for n in (20, 30, 40)]
    for op in [common, *left]:
        assert replica.offer(op) == TAKEN
    assert replica.state("counter", "n").value() == 4
    assert replica.offer(right[2]) == "fork"
    assert replica.cut(LIAR.peer_id) == 3
    assert replica.state("counter", "n").value() == 3, "what both stories may share still counts"
    assert replica.offer(right[0]) == "fork"
    assert replica.cut(LIAR.peer_id) == 1
    assert replica.state("counter", "n").value() == 1
    assert replica.offer(left[0]) == "cut"
    one, other = replica.evidence[LIAR.peer_id]
    assert {one.hash, other.hash} == {left[0].hash, right[0].hash}


def test_evidence_alone_convicts_and_shows_a_third_story():
    replicas = [Replica("doc") for _ in range(3)]
    stories = [[write(r, LIAR, 10 * i + n) for n in range(3)] for i, r in enumerate(replicas)]
    mine = replicas[0]
    assert mine.accuse(stories[1][1], stories[2][2])  # neither is in this replica's story
    assert mine.cut(LIAR.peer_id) == 1, "what they prove at 2, with what is here, proves at 1"
    assert not mine.accuse(stories[1][1], stories[2][2])


def test_evidence_that_proves_nothing_is_not_believed():
    replica = Replica("doc")
    first, second = write(replica, ME), write(replica, ME, 2)
    forged = Op(Op.signed(ME, "doc", 0, 1, deltas.Grow("g", 5), FIRST).body, LIAR.sign(b"hubless/1/op", b"x"))
    assert not replica.accuse(first, second)
    assert not replica.accuse(first, forged)
    other = Op.signed(LIAR, "elsewhere", 0, 1, deltas.Grow("g", 5), FIRST)
    assert not replica.accuse(other, Op.signed(LIAR, "elsewhere", 0, 1, deltas.Grow("g", 6), FIRST))
    assert not replica.evidence


def test_who_was_cut_cannot_write():
    replica, twin = Replica("doc"), Replica("doc")
    write(replica, ME)
    replica.offer(write(twin, ME, 7))
    with pytest.raises(IntegrityError, match="two stories"):
        write(replica, ME, 8)


def test_reasons_why_an_operation_is_not_taken():
    source, replica = Replica("doc"), Replica("doc")
    source.clock = 10
    first, second, third = (write(source, ME, n) for n in (1, 2, 3))
    assert replica.offer(second) == "gap"
    assert replica.offer(first) == TAKEN
    assert replica.offer(first) == KNOWN
    assert replica.offer(Op(second.body, bytes(64))) == "signature"
    assert replica.offer(Op.signed(ME, "other", 1, 12, deltas.Grow("g", 1), first.hash)) == "other document"
    assert replica.offer(Op.signed(ME, "doc", 1, 3, deltas.Grow("g", 1), first.hash)) == "clock"
    assert replica.offer(Op.signed(LIAR, "doc", 0, 3, deltas.Grow("g", 1), bytes(range(32)))) == "chain"
    replica.allowed = {LIAR.peer_id: None}
    assert replica.offer(second) == "stranger"
    replica.allowed = None
    assert (replica.offer(second), replica.offer(third)) == (TAKEN, TAKEN)
    assert replica.canonical() == source.canonical()


def test_nobody_is_unable_to_write_after_a_clock_at_its_end():
    replica = Replica("doc")
    replica.offer(Op.signed(LIAR, "doc", 0, LATEST, deltas.Put("m", "k", "late"), FIRST))
    replica.write(ME, deltas.Put("m", "mine", 1))
    replica.write(ME, deltas.Put("m", "mine", 2))
    assert replica.state("map", "m").value() == {"k": "late", "mine": 2}


def test_what_is_not_kept_does_not_count():
    replica = Replica("doc")

    def full(ops):
        raise OSError("disk full")

    replica.keep = full
    with pytest.raises(OSError, match="full"):
        write(replica, ME)
    assert replica.chains.get(ME.peer_id, []) == []
    assert replica.kinds("n") == []


def test_an_actor_counts_and_adds_only_in_its_own_name():
    replica = Replica("doc")
    replica.offer(Op.signed(LIAR, "doc", 0, 1, deltas.Tally("n", 5, 0), FIRST))
    write(replica, ME, 1)
    assert replica.state("counter", "n").up.totals == {LIAR.peer_id: 5, ME.peer_id: 1}
