import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net.crdt.types import GCounter, LWWMap, MVRegister, ORSet, PNCounter, canonical
from hubless.net.crdt.values import DEPTH, pack, unpack

ACTORS = ("a", "b", "c")
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4) | st.binary()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))


def joined(*states):
    total = copy.deepcopy(states[0])
    for state in states[1:]:
        total.merge(state)
    return total


@st.composite
def histories(draw):
    """Three replicas that wrote and merged at random: their states, and every delta that there was."""
    kind = draw(st.sampled_from([GCounter, PNCounter, LWWMap, ORSet, MVRegister]))
    replicas, deltas = {actor: kind() for actor in ACTORS}, []
    for lamport in range(draw(st.integers(0, 14))):
        actor = draw(st.sampled_from(ACTORS))
        state, dot = replicas[actor], (actor, lamport)
        item = draw(st.integers(0, 2))
        if kind is GCounter:
            delta = state.incr(actor, item)
        elif kind is PNCounter:
            delta = state.incr(actor, item - 1)
        elif kind is LWWMap:
            stamp = (draw(st.integers(0, 3)), actor, lamport)
            delta = state.set(str(item), lamport, stamp) if draw(st.booleans()) else state.drop(str(item), stamp)
        elif kind is ORSet:
            delta = state.add(item, dot) if draw(st.booleans()) else state.remove(item)
        else:
            delta = state.assign(item, dot)
        state.merge(delta)
        deltas.append(delta)
        if draw(st.booleans()):
            replicas[draw(st.sampled_from(ACTORS))].merge(state)
    return list(replicas.values()), deltas


@given(histories())
def test_merging_is_a_join(history):
    (a, b, c), _ = history
    assert canonical(joined(a, b)) == canonical(joined(b, a))
    assert canonical(joined(joined(a, b), c)) == canonical(joined(a, joined(b, c)))
    assert canonical(joined(a, a)) == canonical(a)
    assert joined(a, b).value() == joined(b, a).value()


@given(histories(), st.randoms())
def test_deltas_in_any_order_any_number_of_times_make_the_joined_state(history, random):
    states, deltas = history
    order = deltas * 2
    random.shuffle(order)
    assert canonical(joined(type(states[0])(), *order)) == canonical(joined(*states))


@given(histories())
def test_a_mutator_changes_nothing(history):
    (state, *_), _ = history
    before = canonical(state)
    if isinstance(state, LWWMap):
        state.set("x", 1, (9, "a", 9)), state.drop("x", (9, "a", 9))
    elif isinstance(state, ORSet):
        state.add(1, ("a", 99)), state.remove(1)
    elif isinstance(state, MVRegister):
        state.assign(1, ("a", 99))
    else:
        state.incr("a", 3)
    assert canonical(state) == before


def test_counters_count_what_all_actors_did():
    one, two = PNCounter(), PNCounter()
    one.merge(one.incr("a", 5))
    two.merge(two.incr("b", -7))
    one.merge(one.incr("a", 2))
    assert joined(one, two).value() == 0
    with pytest.raises(ConfigError, match="only grows"):
        GCounter().incr("a", -1)


def test_a_removal_does_not_kill_an_addition_that_it_has_not_seen():
    one, two = ORSet(), ORSet()
    one.merge(one.add("x", ("a", 0)))
    two.merge(one)
    one.merge(one.add("x", ("a", 1)))  # at the same time
    two.merge(two.remove("x"))
    assert two.value() == []
    assert joined(one, two).value() == ["x"] == joined(two, one).value()
    both = joined(one, two)
    both.merge(both.remove("x"))
    assert joined(both, one, two).value() == []


def test_items_of_a_set_are_told_apart_by_type():
    state = ORSet()
    for i, item in enumerate([1, 1.0, True, "1", b"1", [1], {"1": 1}]):
        state.merge(state.add(item, ("a", i)))
    assert len(state.value()) == 7


def test_the_last_writer_wins_by_lamport_time_then_actor():
    writes = [
        LWWMap().set("k", value, stamp) for value, stamp in [(1, (2, "a", 0)), (2, (1, "z", 9)), (3, (2, "b", 0))]
    ]
    assert all(joined(*order).value() == {"k": 3} for order in itertools.permutations(writes))
    gone = joined(*writes, LWWMap().drop("k", (3, "a", 1)))
    assert gone.value() == {}
    assert joined(gone, *writes).value() == {}


def test_a_register_keeps_what_was_written_at_the_same_time_until_the_next_write():
    one, two = MVRegister(), MVRegister()
    one.merge(one.assign("left", ("a", 0)))
    two.merge(two.assign("right", ("b", 0)))
    both = joined(one, two)
    assert both.value() == ["left", "right"]
    both.merge(both.assign("settled", ("a", 1)))
    assert joined(both, one, two).value() == ["settled"]


@given(VALUES)
def test_values_come_back_and_have_one_encoding(value):
    packed = pack(value)
    assert pack(unpack(packed)) == packed


def test_dicts_are_packed_in_order_of_keys():
    assert pack({"b": 1, "a": 2}) == pack({"a": 2, "b": 1})


@pytest.mark.parametrize("value", [{1, 2}, {1: 2}, 2**64, -(2**63) - 1, object(), "\ud800", {"a": {b"b": 1}}])
def test_what_a_document_cannot_hold_is_said(value):
    with pytest.raises(ConfigError, match="value"):
        pack(value)


def test_values_are_not_nested_without_end():
    deep = []
    for _ in range(DEPTH):
        deep = [deep]
    with pytest.raises(ConfigError, match=str(DEPTH)):
        pack(deep)
