"""Signed records on one peer's shelf: whose word counts, which of two, and how much room there is."""

from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import RecordRefused
from hubless.net.identity import RECORD, Identity
from hubless.net.policy import Limits
from hubless.net.services.shelf import Record, Shelf, Written, read, sign

ALICE, BOB = Identity.derived(1, 0), Identity.derived(1, 1)
NOW = 1000.0


def written(who=ALICE, key=b"k", value=b"v", seq=1, subkey="", expires=NOW + 60):
    return sign(who, key, Record(who.peer_id, subkey, value, seq, expires))


def values(shelf, key=b"k", now=NOW):
    return sorted(read(raw, shelf.limits)[1].value for raw in shelf.kept(key, now))


def test_strangers_have_slots_of_their_own():
    shelf = Shelf(Limits())
    for raw in (written(), written(BOB, value=b"b", seq=9), written(subkey="s", value=b"s")):
        shelf.keep(raw, NOW)
    assert values(shelf) == [b"b", b"s", b"v"]
    assert len(shelf) == 3


def test_an_older_record_does_not_come_back():
    shelf = Shelf(Limits())
    shelf.keep(written(seq=2, value=b"new"), NOW)
    with pytest.raises(RecordRefused, match="older: seq 1, kept is 2"):
        shelf.keep(written(seq=1), NOW)
    shelf.keep(written(seq=2, value=b"new"), NOW)  # once more is no harm
    assert values(shelf) == [b"new"]
    assert len(shelf) == 1


@given(st.permutations([(1, b"a"), (2, b"b"), (2, b"c"), (3, b"d"), (3, b"e")]))
def test_what_is_kept_does_not_depend_on_the_order_of_arrival(order):
    shelf = Shelf(Limits())
    for seq, value in order:
        with suppress(RecordRefused):
            shelf.keep(written(seq=seq, value=value), NOW)
    best = max((written(seq=3, value=value), value) for value in (b"d", b"e"))[1]
    assert values(shelf) == [best]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (written(expires=NOW), "expires in 0 s"),
        (written(expires=NOW - 5), "expires in -5 s"),
        (written(expires=float("nan")), "expires in nan s"),
        (written(expires=NOW + 1e12), "within 2592000"),
        (written(value=bytes(64 * 1024 + 1)), "a value of 65537 bytes: at most 65536"),
        (written(key=bytes(65)), "a key of 65 bytes"),
        (written(subkey="s" * 65), "a subkey of 65 bytes"),
        (b"", "damaged"),
        (bytes(300), "damaged"),
        (written()[:-1], "damaged"),
        (written() + b"x", "damaged"),
        (bytes(64) + b"\x96\xa1k\xa1p\xa1\xff", "damaged"),  # a text that is not UTF-8
        (bytes(64) + b"\x91" * 9000, "damaged"),
        (bytes(64) + written()[64:], "not signed by its publisher"),
        (BOB.sign(RECORD, written()[64:]) + written()[64:], "not signed by its publisher"),
        (ALICE.sign(b"hubless/1/pub", written()[64:]) + written()[64:], "not signed by its publisher"),
    ],
)
def test_what_is_refused_says_why_and_leaves_the_shelf_alone(raw, why):
    shelf = Shelf(Limits())
    with pytest.raises(RecordRefused, match=why):
        shelf.keep(raw, NOW)
    assert not len(shelf)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_be_refused(raw):
    with pytest.raises(RecordRefused):
        read(raw, Limits())


@given(st.lists(st.none() | st.integers() | st.binary(max_size=40) | st.text(max_size=9) | st.floats(), max_size=8))
def test_no_signed_nonsense_does_anything_but_be_refused(fields):
    data = msgspec.msgpack.encode([f if not isinstance(f, int) or abs(f) < 1 << 63 else 0 for f in fields])
    with pytest.raises(RecordRefused):
        read(ALICE.sign(RECORD, data) + data, Limits())


def test_a_record_in_anothers_name_is_refused():
    data = msgspec.msgpack.encode(Written(b"k", BOB.public, "", b"v", 1, NOW + 60))
    with pytest.raises(RecordRefused, match="not signed"):
        read(ALICE.sign(RECORD, data) + data, Limits())


def test_quotas_hold_for_each_publisher_for_all_and_for_a_key():
    limits = Limits(stored=16, share=4, slots=5)
    shelf = Shelf(limits)
    for i in range(4):
        shelf.keep(written(key=b"%d" % i), NOW)
    with pytest.raises(RecordRefused, match="as much here as one may have"):
        shelf.keep(written(key=b"4"), NOW)
    shelf.keep(written(key=b"3", seq=2), NOW)  # in place of one that is there
    people = [Identity.derived(2, i) for i in range(13)]
    for person in people[:5]:
        shelf.keep(written(person), NOW)
    with pytest.raises(RecordRefused, match="5 records under one key"):
        shelf.keep(written(people[5]), NOW)
    for person in people[5:12]:
        shelf.keep(written(person, key=b"other" + person.public[:1]), NOW)
    with pytest.raises(RecordRefused, match="full"):
        shelf.keep(written(people[12], key=b"more"), NOW)
    assert len(shelf) == 16


def test_bytes_count_against_quotas_too_and_come_back_with_expiry():
    shelf = Shelf(Limits(shelf=4000, share=2))
    shelf.keep(written(value=bytes(1500), expires=NOW + 10), NOW)
    with pytest.raises(RecordRefused, match="as much here"):
        shelf.keep(written(value=bytes(400), subkey="s"), NOW)
    assert values(shelf, now=NOW + 10) == []  # expired, though nobody swept
    assert shelf.sweep(NOW + 10) == 1
    assert not len(shelf)
    assert not shelf.keys
    assert not shelf.bytes
    shelf.keep(written(value=bytes(1500), expires=NOW + 60), NOW + 10)


def test_an_answer_is_bounded_and_long_values_do_not_hide_short_ones():
    shelf = Shelf(replace(Limits(), answer=1000))
    for i in range(9):
        shelf.keep(written(subkey=f"{i}", value=bytes(600 if i < 8 else 1)), NOW)
    answer = shelf.kept(b"k", NOW)
    assert sum(map(len, answer)) <= 1000
    assert len(answer) == 2
    assert shelf.kept(b"nothing", NOW) == []
