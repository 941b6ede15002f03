"""Frames come out as they went in, however the bytes are cut; lengths that are too much are refused at once."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import FrameTooLarge
from hubless.net.transports.framing import LAST, LENGTH, PIECE, ROOM, Incoming, Outgoing

SIZES = st.one_of(st.integers(0, 40), st.sampled_from([PIECE - 4, PIECE, ROOM - 4, ROOM - 3, ROOM + 1, 3 * ROOM]))


def wire(frames, last=False):
    out, data = Outgoing(), b""
    for frame in frames:
        out.add(frame)
    if last:
        out.add_last()
    while out.size:
        piece = out.take()
        assert 0 < len(piece) <= PIECE
        data += piece
    return data


def feed(incoming, data, cuts):
    """Bytes as a socket would bring them: no more at once than there is room for."""
    cut = iter(cuts)
    while data:
        room = incoming.room()
        count = min(len(room), len(data), next(cut, len(data)))
        room[:count] = data[:count]
        data = data[count:]
        if incoming.filled(count):
            return data
    return None


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, max_size=6), st.lists(st.integers(1, 2 * ROOM), max_size=30), st.booleans())
def test_frames_come_out_as_they_went_in(sizes, cuts, last):
    frames = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    heard = []
    incoming = Incoming(heard.append, limit=4 * ROOM)
    rest = feed(incoming, wire(frames, last), cuts)
    assert heard == frames
    assert all(type(frame) is bytes for frame in heard)
    assert rest == (b"" if last else None)
    assert (incoming.frames, incoming.held if not last else 0) == (len(frames), 0)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_byte_by_byte(frames):
    heard = []
    incoming = Incoming(heard.append, limit=100)
    data = wire(frames)
    for i, byte in enumerate(data):
        incoming.room()[0] = byte
        incoming.filled(1)
        whole = incoming.held == 0
        assert whole or incoming.missing > 0, i
    assert heard == frames


@pytest.mark.parametrize("size", [101, ROOM, 2**31, LAST - 1])
def test_a_length_beyond_the_limit_is_refused_before_its_bytes(size):
    heard = []
    incoming = Incoming(heard.append, limit=100)
    with pytest.raises(FrameTooLarge, match=f"{size:,} bytes: at most 100"):
        feed(incoming, wire([b"ok"]) + LENGTH.pack(size), [])
    assert heard == [b"ok"]


def test_naming_a_length_takes_no_memory():
    incoming = Incoming(lambda frame: None, limit=1 << 30)
    tracemalloc.start()
    feed(incoming, LENGTH.pack(1 << 29) + bytes(100), [])
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert incoming.missing == (1 << 29) - 100
    assert grown < 2 * ROOM


def test_nothing_is_told_once_it_is_closed():
    heard = []

    def hear(frame):
        heard.append(frame)
        incoming.open = False

    incoming = Incoming(hear, limit=100)
    feed(incoming, wire([b"one", b"two"]), [])
    assert heard == [b"one"]


def test_small_frames_are_joined_and_large_ones_cut():
    out = Outgoing()
    for _ in range(100):
        out.add(b"x" * 100)
    assert len(out.take()) == 100 * 104
    whole = bytes(PIECE * 3 + 7)
    out.add(whole)
    pieces = []
    while out.size:
        pieces.append(out.take())
    assert [len(piece) for piece in pieces] == [4, PIECE, PIECE, PIECE, 7]
    assert isinstance(pieces[1], memoryview)
    assert pieces[1].obj is whole, "not copied"
