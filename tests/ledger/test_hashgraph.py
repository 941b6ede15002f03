"""A hashgraph on a network: faulty members, and what does not fit."""

import msgspec
import pytest

from hubless.errors import ConfigError
from hubless.ledger.hashgraph import EVENT, Hashgraph
from hubless.ledger.trials import faulty
from hubless.ledger.virtual_voting import NONE, Event
from hubless.net.identity import Identity


@pytest.mark.parametrize("seed", range(3))
def test_fewer_than_a_third_that_are_silent_or_tell_two_stories_do_no_harm(seed):
    found = faulty.run(peers=7, silent=1, forkers=1, latency=0.1, rate=1.0, seconds=30.0, seed=seed)
    assert found.same
    assert found.forks == 1
    assert found.ordered > 10


def test_a_third_that_is_silent_stops_the_order_and_does_not_split_it():
    found = faulty.run(peers=7, silent=3, forkers=0, latency=0.1, rate=1.0, seconds=30.0, seed=0)
    assert found.same
    assert (found.ordered, found.rounds) == (0, 0)


def test_peers_that_share_a_graph_end_as_those_that_do_not(town):
    from hubless.ledger.hashgraph import Gossip

    async def story(town):
        for k in range(10):
            await town.append(k % 4, f"record {k}")
            await town.sleep(1.0)
        await town.sleep(15.0)
        return [(engine.settled, engine.poll.round, engine.work, engine.stored()) for engine in town.engines]

    shared = []

    def sharing(net, ids):
        shared[:] = shared or [Gossip(ids)]
        return Hashgraph(net, ids, gossip=shared[0])

    alone = town(4, lambda net, ids: Hashgraph(net, ids), story)
    assert town(4, sharing, story) == alone
    assert all(len(settled) == 10 for settled, _, _, _ in alone)


def test_events_that_nobody_may_make_are_dropped_and_counted(town):
    async def story(town):
        engine, stranger = town.engines[0], Identity.derived(9, 9)
        before = len(engine.graph.events)
        events = []
        for creator, parent, signer in (
            (stranger.peer_id, NONE, stranger),
            (town.ids[1], NONE, stranger),
            (town.ids[1], b"?" * 32, town.keys[1]),
        ):
            event = Event(creator, parent, NONE, [], 1.0)
            signature = signer.sign(EVENT, event.digest(engine.hasher))
            events.append(msgspec.msgpack.encode(msgspec.structs.replace(event, signature=signature)))
        town.nets[1].send(town.ids[0], "hashgraph/told", msgspec.msgpack.encode((b"?" * 32, [*events, b"junk"], [])))
        await town.sleep(0.4)
        assert engine.net.stats["reject:hashgraph NotAuthority"] == 1
        assert engine.net.stats["reject:hashgraph LedgerError"] == 1
        assert engine.net.stats["reject:hashgraph event"] == 1
        assert len(engine.early) == 1
        assert not any(event.creator == stranger.peer_id for event in engine.graph.events[before:])
        await town.sleep(2 * engine.net.timeouts.orphan)
        assert len(engine.early) == 0
        assert engine.net.stats["reject:hashgraph unknown parent"] == 1

    town(4, lambda net, ids: Hashgraph(net, ids), story)


def test_a_record_that_spends_what_is_spent_is_not_ordered(town):
    async def story(town):
        ids = [await town.append(0, "to Ann", b"coin"), await town.append(1, "to Ben", b"coin")]
        await town.sleep(30.0)
        orders = [engine.order() for engine in town.engines]
        assert all(order == orders[0] for order in orders)
        assert len(orders[0]) == 1
        assert orders[0][0] in ids

    town(4, lambda net, ids: Hashgraph(net, ids), story)


def test_options_that_cannot_work_are_refused(town):
    for options in (dict(every=0.0), dict(records_a_event=0)):
        with pytest.raises(ConfigError, match="hashgraph"):
            town(2, lambda net, ids, options=options: Hashgraph(net, ids, **options), lambda town: town.sleep(1.0))
