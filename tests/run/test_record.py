import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import DataError
from hubless.run.record import KINDS, Record

names = st.text(min_size=1, max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
records = st.builds(
    Record,
    st.sampled_from(KINDS),
    st.integers(0, 10**6),
    st.dictionaries(names, numbers, max_size=3),
    st.dictionaries(names, st.lists(st.none() | numbers, max_size=3), max_size=3),
    st.dictionaries(names, json, max_size=3),
)


@given(records)
def test_a_record_survives_its_line(record: Record):
    line = record.line()
    assert "\n" not in line
    assert Record.parse(line) == record
    assert Record.parse(line).line() == line


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_comes_back_as_nan(bad: float):
    back = Record.parse(Record("round", 1, {"loss": bad}, {"loss": [bad, 1.0]}).line())
    assert math.isnan(back.metrics["loss"])
    assert back.peers["loss"] == [None, 1.0]


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"kind":"round"}', '{"kind":"round","round":1,"metrics":3}'])
def test_what_is_no_record_is_refused(line: str):
    with pytest.raises(DataError, match="not a record"):
        Record.parse(line)
