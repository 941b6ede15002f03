"""Pieces of blobs: named by their hashes, kept within a quota, in memory or in a folder."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError, IntegrityError
from hubless.net.policy import Limits
from hubless.net.services.pieces import Manifest, Pieces, cut, digest, read_manifest


@given(st.binary(max_size=200), st.integers(1, 64))
def test_a_blob_is_its_pieces(data, chunk):
    raw, pieces = cut(data, chunk)
    manifest = read_manifest(raw, Limits())
    assert b"".join(pieces) == data
    assert manifest.hashes == [digest(piece) for piece in pieces]
    assert [manifest.length(i) for i in range(len(pieces))] == [len(piece) for piece in pieces]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"junk",
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode([10, 4, [bytes(32)] * 2]),  # too few pieces
        msgspec.msgpack.encode([10, 4, [bytes(31)] * 3]),  # no hashes
        msgspec.msgpack.encode([-1, 4, []]),
        msgspec.msgpack.encode([10, 0, []]),
        msgspec.msgpack.encode([10, 1 << 40, [bytes(32)]]),
        msgspec.msgpack.encode([1 << 50, 1, []]),
    ],
)
def test_what_is_no_manifest_is_an_integrity_error(raw):
    with pytest.raises(IntegrityError):
        read_manifest(raw, Limits())


@given(st.binary(max_size=100))
def test_no_bytes_make_a_manifest_crash(raw):
    try:
        made = read_manifest(raw, Limits())
    except IntegrityError:
        return
    assert isinstance(made, Manifest)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_longest_unused_goes_and_own_pieces_stay(tmp_path, on_disk):
    pieces = Pieces(300, tmp_path / "pieces" if on_disk else None)
    own = pieces.put(b"o" * 100, own=True)
    a, b = pieces.put(b"a" * 100), pieces.put(b"b" * 100)
    assert pieces.get(a) == b"a" * 100  # used
    c = pieces.put(b"c" * 100)
    assert own in pieces
    assert a in pieces
    assert b not in pieces
    assert c in pieces
    assert pieces.used == 300
    assert pieces.put(b"d" * 201) is None  # own ones never make room
    assert pieces.put(b"d" * 200, own=True)
    assert len(pieces) == 2
    assert pieces.put(b"e") is None
    assert pieces.get(digest(b"unknown")) is None


def test_a_folder_is_found_again_and_what_was_changed_in_it_is_dropped(tmp_path):
    first = Pieces(1000, tmp_path)
    good, bad = first.put(b"good"), first.put(b"bad")
    (tmp_path / "notes.txt").write_text("not a piece")
    (tmp_path / bad.hex()).write_bytes(b"changed")
    again = Pieces(1000, tmp_path)
    assert again.get(good) == b"good"
    assert again.get(bad) is None
    assert bad not in again
    assert again.used == 4
    assert not (tmp_path / bad.hex()).exists()
    assert (tmp_path / "notes.txt").exists()
    assert len(Pieces(3, tmp_path)) == 0  # a smaller quota makes it smaller


def test_a_piece_twice_takes_room_once_and_can_become_own():
    pieces = Pieces(10)
    assert pieces.put(b"12345") == pieces.put(b"12345", own=True)
    assert pieces.used == pieces.own == 5
    with pytest.raises(ConfigError, match="quota = 0"):
        Pieces(0)
