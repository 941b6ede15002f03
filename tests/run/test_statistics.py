import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.claims import Result
from hubless.errors import DataError
from hubless.run.record import Record
from hubless.run.statistics import bootstrap, compare, paired_difference, summarise

samples = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=6)


@given(samples)
def test_the_interval_lies_inside_the_sample_and_is_the_same_each_time(values: list[float]):
    low, high = bootstrap(values, draws=50)
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert bootstrap(values, draws=50) == (low, high)


def test_the_interval_is_as_wide_as_theory_says():
    chance = random.Random(0)
    low, high = bootstrap([chance.gauss(5, 1) for _ in range(400)])
    assert high - low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.15)


def test_one_value_has_no_interval():
    one = summarise([3.0])
    assert (one.mean, one.spread) == (3.0, 0.0)
    assert math.isnan(one.low)


def test_differences_are_taken_seed_by_seed():
    difference = paired_difference([2.0, 12.0, 22.0], [1.0, 11.0, 21.0])
    assert (difference.values, difference.spread, difference.low, difference.high) == ((1.0, 1.0, 1.0), 0.0, 1.0, 1.0)
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])


def result(value: float) -> Result:
    return Result("walk", {}, [Record("end", 1, {"accuracy": value})])


def test_the_first_arm_is_the_baseline():
    rows = compare({"a": [result(0.5), result(0.7)], "b": [result(0.6), result(0.9)]}, "accuracy")
    assert rows[0].difference is None
    assert rows[1].arm == "b"
    assert rows[1].difference.mean == pytest.approx(0.15)
    with pytest.raises(DataError, match="loss"):
        compare({"a": [result(0.5)]}, "loss")
