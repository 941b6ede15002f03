"""A chain on a network: forks, authorities, votes, partitions and crashes."""

import msgspec
import pytest

from hubless.errors import ConfigError, LedgerError, NotAuthority
from hubless.ledger.attestations import Vote
from hubless.ledger.hash_chain import BLOCK, VOTE, Block, HashChain
from hubless.ledger.sealing import Authority, Work, leading_zeros
from hubless.ledger.trials.load import same_order
from hubless.ledger.trials.town import halves
from hubless.net.identity import Identity


def work(**options):
    return lambda net, ids: HashChain(net, ids, Work(1.0, **options), records_a_block=1)


def authority(slot=1.0):
    return lambda net, ids: HashChain(net, ids, Authority.of(slot, ids), records_a_block=1)


async def load(town, seconds, peers=None):
    ids = []
    for k in range(seconds):
        i = (peers or range(len(town.ids)))[k % len(peers or town.ids)]
        ids.append(await town.append(i, f"record {len(ids)}"))
        await town.sleep(1.0)
    return ids


def test_records_of_blocks_that_leave_the_chain_wait_again(town):
    async def story(town):
        ids = await load(town, 60)
        await town.sleep(400.0)
        first = town.engines[0]
        assert first.stale() > 0.1  # there were forks
        assert sorted(first.settled) == sorted(ids)
        assert len(first.order()) == len(set(first.order())) == len(ids)
        assert all(engine.tree.head.work > 0 for engine in town.engines)
        assert same_order(town.engines)

    town(6, work(bits=3, real=True), story, latency=1.0)


def test_after_a_partition_the_lighter_side_gives_way_and_loses_no_record(town):
    async def story(town):
        await load(town, 5)
        town.world.partition([town.ids[:2], town.ids[2:]])
        lost = [await town.append(0, f"left {i}") for i in range(3)]
        await load(town, 40, [3, 4, 5])
        assert town.engines[0].tree.head.hash != town.engines[5].tree.head.hash
        town.world.heal()
        await load(town, 60)
        await town.sleep(60.0)
        for engine in town.engines:
            assert all(engine.finality(id).state == "final" for id in lost)
        assert same_order(town.engines)

    town(6, work(bits=0), story)


def test_authorities_agree_at_once_and_undo_nothing_in_a_partition(town):
    async def story(town):
        ids = await load(town, 8)
        await town.sleep(5.0)
        assert all(engine.order() == ids for engine in town.engines)
        assert all(engine.settled[ids[0]] - town.engines[0].settled[ids[0]] < 0.5 for engine in town.engines)
        town.world.partition(halves(town.ids))
        cut = await load(town, 20)
        assert not any(id in engine.settled for engine in town.engines for id in cut[4:])
        town.world.heal()
        more = await load(town, 20)
        await town.sleep(60.0)
        for engine in town.engines:
            assert sorted(engine.order()) == sorted([*ids, *cut, *more])
            assert engine.work["undone"] == 0
            assert not engine.votes.guilty
        assert same_order(town.engines)

    town(7, authority(), story)


def test_a_minority_that_was_cut_off_catches_up_with_blocks_and_votes(town):
    async def story(town):
        town.world.partition([town.ids[:2], town.ids[2:]])
        ids = await load(town, 20, [2, 3, 4, 5, 6])
        assert not town.engines[0].settled
        assert town.engines[6].settled
        town.world.heal()
        ids += await load(town, 20)
        await town.sleep(30.0)
        assert all(sorted(engine.order()) == sorted(ids) for engine in town.engines)

    town(7, authority(), story)


@pytest.mark.parametrize(("dead", "moves"), [(2, True), (3, False)])
def test_authorities_go_on_while_more_than_two_thirds_are_there(town, dead, moves):
    async def story(town):
        for id in town.ids[:dead]:
            town.world.crash(id)
        ids = await load(town, 10, list(range(dead, 7)))
        await town.sleep(60.0)
        for engine in town.engines[dead:]:
            assert (sorted(engine.order()) == sorted(ids)) == moves
            assert moves or not engine.settled

    town(7, authority(), story)


def test_final_also_where_votes_travel_for_longer_than_a_block_takes(town):
    async def story(town):
        ids = await load(town, 10)
        await town.sleep(30.0)
        assert all(engine.order() == town.engines[0].order() for engine in town.engines)
        assert sorted(town.engines[0].order()) == sorted(ids)

    town(7, authority(slot=1.6), story, latency=1.0)


def test_of_two_records_that_spend_the_same_the_first_in_order_counts(town):
    async def story(town):
        one = await town.append(0, "to Ann", b"coin")
        await town.sleep(5.0)
        two = await town.append(1, "to Ben", b"coin")
        await town.sleep(10.0)
        for engine in town.engines:
            assert engine.finality(one).state == "final"
            assert engine.finality(two).state == "pending"
            assert engine.order() == [one]

    town(4, authority(), story)


def test_a_block_or_a_vote_of_somebody_else_is_dropped_and_counted(town):
    async def story(town):
        stranger, engine = Identity.derived(9, 9), town.engines[0]
        tree, sealing = engine.tree, engine.sealing
        slot = next(k for k in range(10**9, 10**9 + 9) if sealing.turn(k)[1] == town.ids[1])
        for sealer, time, signer in (
            (stranger.peer_id, slot, stranger),
            (town.ids[2], slot, town.keys[2]),  # not its turn
            (town.ids[1], slot, stranger),
            (town.ids[1], slot + 7 * 10**9, town.keys[1]),  # of the future
        ):
            header = tree.draft(tree.head, [], float(time), 0, sealer)
            block = Block(header, [], signer.sign(BLOCK, header.digest(engine.hasher)))
            town.nets[1].send(town.ids[0], "chain/block", msgspec.msgpack.encode(block))
            vote = Vote(sealer, tree.head.hash, 0, b"x" * 32, 1)
            vote = msgspec.structs.replace(vote, signature=stranger.sign(VOTE, vote.said()))
            town.nets[1].send(town.ids[0], "chain/vote", msgspec.msgpack.encode(vote))
        await town.sleep(1.0)
        assert len(tree.nodes) == 1
        stats = town.nets[0].stats
        assert stats["reject:chain NotAuthority"] == 3
        assert stats["reject:chain LedgerError"] == 5
        with pytest.raises(NotAuthority, match="not one of the 7 authorities"):
            sealing.check(tree.draft(tree.head, [], float(slot), 0, stranger.peer_id), bytes(32))
        with pytest.raises(NotAuthority, match="not that of"):
            sealing.check(tree.draft(tree.head, [], float(slot), 0, town.ids[2]), bytes(32))

    town(7, authority(), story)


def test_a_block_whose_parent_never_comes_is_dropped_after_a_while(town):
    async def story(town):
        engine = town.engines[0]
        header = msgspec.structs.replace(engine.tree.draft(engine.tree.head, [], 1.0, 0, town.ids[1]), prev=b"?" * 32)
        block = Block(header, [], town.keys[1].sign(BLOCK, header.digest(engine.hasher)))
        town.nets[1].send(town.ids[0], "chain/block", msgspec.msgpack.encode(block))
        await town.sleep(5.0)
        assert len(engine.early) == 1
        await town.sleep(2 * town.nets[0].timeouts.orphan)
        assert len(engine.early) == 0
        assert town.nets[0].stats["reject:chain unknown parent"] == 1

    town(3, work(bits=0), story)


def test_work_is_searched_for_and_checked():
    from hubless.ledger.block_tree import BlockTree
    from hubless.ledger.suites import Hasher

    tree, sealing = BlockTree("t", Hasher()), Work(1.0, bits=6, real=True)
    header = sealing.seal(tree.draft(tree.head, [], 1.0, 6, "me"), tree.hasher)
    digest = header.digest(tree.hasher)
    assert leading_zeros(digest) >= 6
    sealing.check(header, digest)
    for wrong, key in ((header, b"\xff" * 32), (msgspec.structs.replace(header, bits=5), digest)):
        with pytest.raises(LedgerError, match="less work than 6 bits"):
            sealing.check(wrong, key)


@pytest.mark.parametrize("options", [dict(interval=0.0), dict(interval=1.0, bits=-1), dict(interval=1.0, depth=-1)])
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(ConfigError):
        Work(**options)
    with pytest.raises(ConfigError):
        Authority(0.0, ("a",))
    with pytest.raises(ConfigError):
        Authority(1.0, ())
