import importlib.util
import struct
import sys
import zlib

import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, same, update

import hubless.learn.codecs.layout as layout
from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import Deflate, Huffman, Raw, Zstd
from hubless.parts import make

PACKERS = [Huffman(), Deflate(), Deflate(1), Zstd(), Zstd(19)]
BY_NAME = pytest.mark.parametrize("packer", PACKERS, ids=str)


def sealed(packer, body):
    return packer.magic + struct.pack("<I", zlib.crc32(body)) + body


@BY_NAME
def test_messages_come_back_bit_for_bit(packer):
    m = {**update(), "half": torch.ones(3, 2).half(), "brain": torch.ones(3).bfloat16(), "none": torch.zeros(0, 5),
         "one": torch.tensor(True), "bytes": torch.arange(200, dtype=torch.uint8)}  # fmt: skip
    for value in (m, {}, {"w": torch.zeros(3000)}):
        data = packer.pack(value)
        assert same(packer.unpack(data), value)
        assert packer.length(value) == len(data)


@BY_NAME
def test_what_repeats_becomes_small(packer):
    m = {"w": torch.zeros(20_000), "labels": torch.arange(3).repeat(500)}
    assert len(packer.pack(m)) < Raw().length(m) / 6
    noise = {"w": torch.randint(0, 256, (4000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))}
    assert len(packer.pack(noise)) < Raw().length(noise) + 40


def test_planes_of_bytes_make_floats_smaller():
    m = {"w": torch.randn(20_000, generator=torch.Generator().manual_seed(0))}
    assert len(Huffman().pack(m)) < 0.95 * len(Deflate().pack(m))


@BY_NAME
@FEW
@given(body=st.binary(max_size=80))
def test_any_bytes_behind_a_good_checksum(packer, body):
    try:
        m = packer.unpack(sealed(packer, body))
    except CodecError:
        return
    assert sum(v.numel() * v.element_size() for v in m.values()) <= 8 * len(body)


@BY_NAME
@FEW
@given(data=st.data())
def test_real_bytes_with_errors_behind_a_good_checksum(packer, data):
    m = {"w": torch.arange(40.0) % 7, "seen": torch.tensor([1, 2])}
    body = bytearray(packer.pack(m)[8:])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        packer.unpack(sealed(packer, bytes(body)))
    except CodecError:
        return


@pytest.mark.parametrize("packer", [Deflate(1), Zstd(1)], ids=str)
def test_bombs(packer, monkeypatch):
    """Many zeros in a few bytes, told truly or not."""
    monkeypatch.setattr(layout, "ROOM", 1 << 20)
    monkeypatch.setattr(layout, "GROWTH", 1 << 6)
    large = b"\0" * (1 << 24)
    bomb = packer.squeeze(large)
    for told, words in ((len(large), "more than"), (1000, "another number"), (1 << 63, "more than")):
        front = struct.pack("<QI", told, len(bomb)) + bomb
        with pytest.raises(CodecError, match=words):
            packer.unpack(sealed(packer, front))


def test_a_zstd_frame_of_unknown_or_false_size():
    raw = Raw().pack({"w": torch.zeros(9)})
    quiet = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    for frame in (quiet, b"", b"x", zstandard.ZstdCompressor().compress(raw + b"x"), zstandard.compress(raw) * 2):
        front = struct.pack("<QI", len(raw), len(frame)) + frame
        with pytest.raises(CodecError, match="Zstd"):
            Zstd().unpack(sealed(Zstd(), front))


@BY_NAME
def test_a_huge_count_in_few_bytes(packer):
    header = b'[["w","f4",[4611686018427387903]]]'
    body = struct.pack("<I", len(header)) + header + b"\1" * 30
    if type(packer) is not Huffman:
        raw = b"hub1" + struct.pack("<II", len(header), zlib.crc32(header)) + header
        body = packer.squeeze(raw)
        body = struct.pack("<QI", len(raw), len(body)) + body
    with pytest.raises(CodecError, match="fit"):
        packer.unpack(sealed(packer, body))


@pytest.mark.parametrize("packer", [Deflate(), Zstd(), make("codec", "fedzip").packer], ids=str)
def test_a_message_that_shrinks_too_much_is_made_longer(packer, monkeypatch):
    """Receivers allow a message a certain growth, so senders of nothing but zeros must send some."""
    monkeypatch.setattr(layout, "ROOM", 1 << 10)
    m = {"w/labels": torch.zeros(1 << 20, dtype=torch.int16), "w/centroids": torch.zeros(3)}
    data = packer.pack(m)
    assert len(data) >= (1 << 21) / layout.GROWTH
    assert same(packer.unpack(data), m)
    monkeypatch.setattr(layout, "GROWTH", 1 << 8)
    with pytest.raises(CodecError, match="more than such a message may have"):
        packer.unpack(data)


def test_without_zstandard(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setattr("hubless.learn.codecs.compressed.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package zstandard: pip install 'hubless\[wire\]'"):
        make("codec", "top-k:0.05+zstd")
    assert importlib.util.find_spec is not None


@pytest.mark.parametrize("spec", ["zstd:0", "zstd:23", "deflate:0", "deflate:10", "zstd:fast"])
def test_levels_that_do_not_exist(spec):
    with pytest.raises(ConfigError, match="level"):
        make("codec", spec)


def test_two_packers_are_refused_and_names_told():
    with pytest.raises(ConfigError, match="Huffman and Zstd both make the bytes"):
        make("codec", "huffman+zstd")
    for spec in ("huffman", "deflate", "zstd"):
        codec = make("codec", spec)
        assert same(codec.decode(codec.encode(update(), {}, CONTEXT)[0], CONTEXT), update())


@BY_NAME
def test_damage(packer):
    data = packer.pack(update())
    for bad in (data[:-1], data + b"\0", data[:8], b"", b"hub1" + data[4:], data[:9] + b"\xff" + data[10:]):
        with pytest.raises(CodecError):
            packer.unpack(bad)
