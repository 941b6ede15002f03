import itertools
import math

import pytest

from hubless.errors import ConfigError
from hubless.net.crdt.trial import planned, trial

SMALL = dict(peers=6, sides=2, apart=5.0, writes=30)


def test_after_a_partition_nothing_is_lost_and_the_baseline_loses_much():
    outcome = trial(0)
    assert outcome.store.rounds <= 8
    assert outcome.equal
    assert (outcome.operations, outcome.lost) == (900, 0)
    assert outcome.exact
    assert outcome.overwritten > 0.1
    assert outcome.baseline.rounds < math.inf, "it does converge, to something else"
    assert [different for _, different in outcome.store.curve][-1] == 1
    assert outcome.store.curve[0][1] > 3


def test_the_same_seed_finds_the_same():
    assert trial(3, **SMALL) == trial(3, **SMALL)
    assert trial(4, **SMALL).store.counted != trial(3, **SMALL).store.counted


def test_writes_are_spread_evenly_over_sides_and_time():
    plan = planned(1, peers=9, sides=3, apart=60.0, writes=300)
    assert [sum(write.peer % 3 == side for write in plan) for side in range(3)] == [300, 300, 300]
    assert all(early.time <= late.time for early, late in itertools.pairwise(plan))
    assert 0 <= plan[0].time < 1
    assert 59 < plan[-1].time < 60
    assert {write.kind for write in plan} == {"add", "remove", "set", "incr"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peers": 1, "sides": 1}, "peers = 1"),
        ({"sides": 0}, "sides = 0"),
        ({"sides": 31}, "sides = 31"),
        ({"apart": 0.0}, "apart = 0"),
        ({"writes": 0}, "writes = 0"),
        ({"every": -1.0}, "every = -1"),
        ({"loss": 2.0}, "loss = 2"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        trial(0, **options)
