"""A tangle on a network: conflicts, partitions, spam."""

import msgspec
import pytest

from hubless.errors import ConfigError
from hubless.ledger.tangle import Tangle, Transaction
from hubless.ledger.trials.town import halves


def tangle(**options):
    return lambda net, ids: Tangle(net, ids, **{"bits": 2, **options})


@pytest.mark.parametrize("alpha", [None, 0.01, 0.5])
def test_both_ways_of_choosing_tips_confirm_nearly_everything(town, alpha):
    async def story(town):
        ids = []
        for k in range(60):
            ids.append(await town.append(k % 5, f"record {k}"))
            await town.sleep(0.5)
        confirmed = sum(town.engines[k % 5].finality(id).state == "final" for k, id in enumerate(ids))
        assert confirmed > 45 if alpha != 0.5 else confirmed > 5
        assert all(len(engine.tips) == len(town.engines[0].tips) for engine in town.engines) or confirmed

    town(5, tangle(alpha=alpha), story, latency=0.5)


def test_latency_makes_a_graph_and_not_a_chain(town):
    async def story(town):
        for k in range(40):
            await town.append(k % 5, f"record {k}")
            await town.sleep(0.2)
        assert max(len(approvers) for approvers in town.engines[0].tips.approvers) > 1
        assert sum(len(parents) == 2 for parents in town.engines[0].tips.parents) > 10

    town(5, tangle(), story, latency=1.0)


def test_of_a_double_spend_one_side_is_final_everywhere(town):
    async def story(town):
        one = await town.append(0, "to Ann", b"coin")
        two = await town.append(1, "to Ben", b"coin")  # before either has heard of the other
        for k in range(40):
            await town.append(k % 5, f"record {k}")
            await town.sleep(0.5)
        finals = [[id for id in (one, two) if engine.finality(id).state == "final"] for engine in town.engines]
        assert all(len(final) == 1 for final in finals)
        assert all(final == finals[0] for final in finals)

    town(5, tangle(), story)


def test_two_sides_of_a_partition_join_again(town):
    async def story(town):
        town.world.partition(halves(town.ids))
        ids = []
        for k in range(20):
            ids.append(await town.append(k % 6, f"apart {k}"))
            await town.sleep(0.5)
        town.world.heal()
        for k in range(20):
            await town.append(k % 6, f"joined {k}")
            await town.sleep(0.5)
        for engine in town.engines:
            assert all(engine.finality(id).state == "final" for id in ids)

    town(6, tangle(), story)


def test_a_transaction_without_its_work_is_dropped_and_counted(town):
    async def story(town):
        engine = town.engines[0]
        genesis = engine.tips.graph.hashes[0]
        record = town.record(1, "spam")
        id = record.id(engine.hasher)
        lazy = Transaction(genesis, genesis, record.encode(), 0.0, 0)
        while engine._bits_of(lazy, id) >= engine.bits:
            lazy = msgspec.structs.replace(lazy, nonce=lazy.nonce + 1)
        town.nets[1].send(town.ids[0], "tangle/transaction", msgspec.msgpack.encode(lazy))
        await town.sleep(1.0)
        assert len(engine.tips) == 1
        assert town.nets[0].stats["reject:tangle LedgerError"] == 1

    town(2, tangle(bits=4), story)


@pytest.mark.parametrize("options", [dict(share=0.4), dict(check=0.0), dict(sample=0), dict(alpha=-1.0)])
def test_options_that_cannot_work_are_refused(town, options):
    with pytest.raises(ConfigError, match="tangle"):
        town(2, tangle(**options), lambda town: town.sleep(1.0))
