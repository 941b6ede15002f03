"""The wire format: what is written is read, and no bytes do anything but that or one kind of error."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import MessageError
from hubless.net.envelope import ERR, RES, SEND, SIGNED, UNSIGNED, Ids, decode, encode, made_at, signed_part

REASONS = {"empty", "version", "truncated", "malformed"}
envelopes = st.tuples(
    st.integers(SEND, ERR),
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
    st.integers(0, (1 << 32) - 1),
    st.binary(max_size=200),
)
signatures = st.none() | st.binary(min_size=64, max_size=64)


def framed(envelope, signature):
    return (UNSIGNED if signature is None else SIGNED + signature) + encode(envelope)


def decodes(frame):
    """Whether a frame decodes; it must not do anything else but raise one error with a known reason."""
    try:
        decode(frame)
    except MessageError as error:
        assert str(error) in REASONS  # noqa: PT017
        return False
    return True


@given(envelopes, signatures)
def test_what_is_written_is_read(envelope, signature):
    frame = framed(envelope, signature)
    assert decode(frame) == (envelope, signature)
    if signature is not None:
        assert signed_part(frame) == encode(envelope)


@given(envelopes, signatures, st.data())
def test_a_frame_cut_short_is_dropped(envelope, signature, data):
    frame = framed(envelope, signature)
    assert not decodes(frame[: data.draw(st.integers(0, len(frame) - 1))])


@given(envelopes, signatures, st.data())
def test_a_frame_with_a_changed_byte_is_read_or_dropped(envelope, signature, data):
    frame = bytearray(framed(envelope, signature))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if decodes(bytes(frame)):
        read, signed = decode(bytes(frame))
        assert decode(framed(read, signed)) == (read, signed), "what is read is a frame that could have been written"


@given(st.sampled_from([b"", UNSIGNED, SIGNED, SIGNED + bytes(64)]), st.binary(max_size=300))
def test_random_bytes_are_dropped(start, rest):
    assert not decodes(start + rest)


@given(envelopes, st.sampled_from(["longer", "nested", "shorter", "no array"]))
def test_an_array_of_another_shape_is_dropped(envelope, how):
    other = {
        "longer": (*envelope, 0),
        "nested": (envelope,),
        "shorter": envelope[:-1],
        "no array": {"kind": envelope[0]},
    }
    assert not decodes(UNSIGNED + msgspec.msgpack.encode(other[how]))


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 4), (0, -1), (1, -1), (2, b"short"), (3, b"x" * 33), (4, "n" * 65), (4, 7), (5, -1), (6, "text"), (0, True)],
)
def test_a_field_out_of_bounds_is_dropped(place, value):
    fields = [RES, 1, bytes(32), bytes(32), "echo", 0, b""]
    assert decodes(UNSIGNED + encode(tuple(fields)))
    fields[place] = value
    assert not decodes(UNSIGNED + encode(tuple(fields)))


def test_bytes_nested_deeper_than_a_stack_are_dropped():
    assert not decodes(UNSIGNED + b"\x91" * 200_000)
    assert not decodes(UNSIGNED + b"\xdd\xff\xff\xff\xff" + bytes(50))


@pytest.mark.parametrize("flag", [0, 1, 4, 5, 0x40, 0x82, 0xFF])
def test_another_version_is_dropped(flag):
    with pytest.raises(MessageError, match="version"):
        decode(bytes([flag]) + encode((RES, 1, bytes(32), bytes(32), "echo", 0, b"")))


@given(st.lists(st.floats(1.7e9, 1.8e9), min_size=1, max_size=50))
def test_ids_grow_even_when_the_clock_is_set_back(times):
    ids = Ids()
    made = [ids.next(now) for now in times]
    assert all(later > earlier for earlier, later in itertools.pairwise(made))
    assert abs(made_at(made[0]) - times[0]) < 0.002
