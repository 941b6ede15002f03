"""A population that is cut into shards, one peer each or several, comes to the rows of one in one piece."""

from collections import Counter

import pytest
import torch
from small import build, rows

from hubless.errors import CheckpointError, ConfigError
from hubless.learn import Gossip, Star
from hubless.learn.codecs import Raw
from hubless.learn.server import ServerOpt
from hubless.learn.shards import Report, Shard, advance

CUTS = ([[0, 1, 2], [3, 4]], [[0, 3], [1, 4], [2]], [[peer] for peer in range(5)])
METHODS = {
    "ring": {},
    "everyone": {"overlay": Gossip("full")},
    "several exchanges": {"overlay": Gossip("ring", steps=3)},
    "median": {"merge": "median", "overlay": Gossip("full")},
    "krum": {"merge": "krum", "overlay": Gossip("full")},
    "coded": {"codec": "float16"},
    "remembered": {"codec": "delta+top-k:0.1"},
    "lies": {"overlay": Gossip("full"), "attack": "sign-flip:40%"},
    "lies after a look": {"overlay": Gossip("full"), "attack": "alie:40%", "merge": "median"},
    "lost": {"setting": {"faults": "loss:0.3"}},
    "crashed": {"setting": {"faults": "crash:1@2"}},
    "secure sums": {"codec": "secure-sum", "overlay": Gossip("full", weights="uniform")},
    "secure sums, twice": {"codec": "secure-sum:0.2", "overlay": Gossip("full", weights="uniform", steps=2)},
}


def run_round(shards, t, carry=lambda address, to, data: data):
    """One round of all shards; ``carry`` may change a packet on its way, or lose it (None)."""
    owner = {peer: number for number, shard in enumerate(shards) for peer in shard.held}
    rounds, plans = [], []
    for shard in shards:
        weather = shard.weather(t)
        plans.append(shard.plan(t, weather))
        rounds.append(shard.round(t, plans[-1], weather))
    now = [advance(steps, None) for steps in rounds]
    swaps = 0
    while not isinstance(now[0], Report):
        assert {(swap.t, swap.k, swap.number, swap.name) for swap in now} == {(t, now[0].k, swaps, now[0].name)}
        swaps += 1
        came = [{} for _ in shards]
        for swap in now:
            for address, data in swap.packets.items():
                for to in swap.routes[address]:
                    if (body := carry(address, to, data)) is not None:
                        came[owner[to]][address] = body
        for swap, packets in zip(now, came, strict=True):
            assert set(packets) <= set(swap.expect)
        now = [advance(steps, packets) for steps, packets in zip(rounds, came, strict=True)]
    assert swaps == shards[0].swaps(plans[0])
    return now


def stacked(shards):
    """Rows of all peers ``[N, D]``."""
    found = {}
    for shard in shards:
        for cohort in shard.wiring.population.cohorts:
            found |= dict(zip(cohort.ids.tolist(), cohort.rows, strict=True))
    return torch.stack([row for _, row in sorted(found.items())])


def cut(parts, remote=False, **given):
    """Shards of a small experiment."""
    return [Shard(build(**given), part, remote=remote) for part in parts]


@pytest.mark.parametrize("parts", CUTS, ids=["two", "three", "nodes"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_are_those_of_one_piece(name, parts):
    shards = cut(parts, **METHODS[name])
    for t in (1, 2, 3):
        run_round(shards, t)
    assert torch.equal(stacked(shards), rows(build(**METHODS[name])))


@pytest.mark.parametrize("name", ["ring", "secure sums"])
def test_bytes_add_up_to_those_of_one_piece(name):
    shards, whole = cut(CUTS[1], **METHODS[name]), build(**METHODS[name])
    list(whole.records())
    for t in (1, 2, 3):
        run_round(shards, t)
    sent = sum(shard.wiring.meter.sent for shard in shards)
    assert torch.equal(sent, whole.snapshot().tensors["meter/sent"])
    assert all(not shard.wiring.meter.sent[~shard.wiring.population.held].any() for shard in shards)


def test_a_role_moves_between_nodes():
    given = {"overlay": Star(), "merge": ServerOpt(rule="adam", lr=0.1)}
    shards = cut(CUTS[2], remote=True, **given)
    for t in (1, 2, 3):
        run_round(shards, t)
    whole = rows(build(**given))
    assert float((stacked(shards)[0] - whole[0]).abs().max()) < 1e-5


def test_a_packet_that_does_not_come_is_like_one_that_was_lost():
    shards = cut([[0], [1], [2], [3], [4]], remote=True)
    own = shards[0].wiring.population.cohorts[0]
    seen = {}

    def carry(address, to, data):
        if to == 0:
            return None
        if address[0] == 0:
            seen[0] = True
        return data

    reports = run_round(shards, 1, carry)
    assert seen
    assert reports[0].rejected == 0
    alone = cut([[0], [1, 2, 3, 4]], setting={"faults": "partition:5@1-1"})
    run_round(alone, 1)
    assert torch.equal(own.rows, alone[0].wiring.population.cohorts[0].rows)


@pytest.mark.parametrize("wrong", [b"", b"nonsense", b"hub1" + bytes(40)])
@pytest.mark.parametrize("name", ["ring", "median", "coded", "remembered"])
def test_bytes_that_are_no_message_are_dropped_and_counted(name, wrong):
    shards = cut(CUTS[2], remote=True, **METHODS[name])
    reports = run_round(shards, 1, lambda address, to, data: wrong if to == 0 else data)
    assert reports[0].rejected > 0
    assert all(torch.isfinite(cohort.rows).all() for cohort in shards[0].wiring.population.cohorts)
    assert sum(report.rejected for report in reports[1:]) == 0


def test_a_shard_goes_on_from_a_snapshot():
    shards = cut(CUTS[0], codec="delta+top-k:0.1")
    run_round(shards, 1)
    kept = [shard.snapshot(1) for shard in shards]
    for snapshot in kept:
        for name, value in snapshot.tensors.items():
            snapshot.tensors[name] = value.clone()
    run_round(shards, 2)
    others = cut(CUTS[0], codec="delta+top-k:0.1")
    for shard, snapshot in zip(others, kept, strict=True):
        shard.restore(snapshot)
    run_round(others, 2)
    assert torch.equal(stacked(shards), stacked(others))
    with pytest.raises(CheckpointError):
        cut(CUTS[1])[2].restore(kept[0])


def test_what_a_node_cannot_do_is_refused_by_name():
    with pytest.raises(ConfigError, match="ALIE needs the honest peers' messages"):
        cut([[0]], remote=True, overlay=Gossip("full"), attack="alie:40%")
    with pytest.raises(ConfigError, match="held = "):
        cut([[0, 0]])
    with pytest.raises(ConfigError, match="held = "):
        cut([[7]])


# secure sums: where all hear all, a peer says to another: deal, dealt, message, relay, answer

DEAL, DEALT, MESSAGE, RELAY, ANSWER = range(1, 6)

EVERYONE = {"overlay": Gossip("full", weights="uniform")}
NONE_SUCH = Raw().pack({"box": torch.zeros(1, 16), "owners": torch.zeros(2, 2), "arrived": torch.zeros(1)})


def changed(one, number, data):
    """A carrier that changes the packet of that number between two peers."""
    seen = Counter()

    def carry(address, to, body):
        if (address[0], to) != one:
            return body
        seen[one] += 1
        return data if seen[one] == number else body

    return carry


def row_of_0(carry, **given):
    """The row of peer 0 after one round of nodes, and its report."""
    shards = cut(CUTS[2], remote=True, **EVERYONE, **given)
    reports = run_round(shards, 1, carry)
    return shards[0].wiring.population.cohorts[0].rows[0].clone(), reports


def without(*peers):
    """The row of peer 0 when it hears nothing of some, and nothing is hidden."""
    return row_of_0(lambda address, to, data: None if to == 0 and address[0] in peers else data)[0]


@pytest.mark.parametrize("data", [None, b"nonsense", NONE_SUCH], ids=["lost", "junk", "no such message"])
@pytest.mark.parametrize("number", [DEAL, MESSAGE], ids=["deal", "message"])
def test_a_sender_that_is_missing_is_missing_in_the_sum(number, data):
    row, reports = row_of_0(changed((1, 0), number, data), codec="secure-sum")
    assert float((row - without(1)).abs().max()) < 1e-4
    assert float((row - without()).abs().max()) > 1e-3
    assert [report.rejected for report in reports] == [int(data is not None), 0, 0, 0, 0]


@pytest.mark.parametrize("data", [None, b"nonsense", NONE_SUCH], ids=["lost", "junk", "no such message"])
def test_a_sum_does_not_need_every_answer(data):
    row, reports = row_of_0(changed((1, 0), ANSWER, data), codec="secure-sum")
    assert float((row - without()).abs().max()) < 1e-4
    assert reports[0].rejected == int(data is not None)


@pytest.mark.parametrize("number", [DEAL, MESSAGE], ids=["deal", "message"])
def test_an_inbox_that_misses_too_many_stays_closed(number):
    row, reports = row_of_0(changed((1, 0), number, None), codec="secure-sum:0.9")
    assert [told.line for told in reports[0].events] == [
        "inboxes in 'gossip' that stayed closed: 1; that of peer 0: secure sum: 3 of 4 senders arrived, 4 are needed"
    ]
    assert reports[0].rejected == 3
    assert float((row - without(1, 2, 3, 4)).abs().max()) < 1e-4


@pytest.mark.parametrize("data", [b"nonsense", NONE_SUCH], ids=["junk", "no such message"])
@pytest.mark.parametrize(("number", "missing"), [(DEALT, (1,)), (RELAY, ())], ids=["dealt", "relay"])
def test_a_receiver_that_talks_nonsense_is_not_answered(number, missing, data):
    row, reports = row_of_0(changed((0, 1), number, data), codec="secure-sum")
    assert reports[1].rejected == 1
    assert float((row - without(*missing)).abs().max()) < 1e-4
