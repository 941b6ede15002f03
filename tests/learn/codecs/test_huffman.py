import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import PATIENT

from hubless.errors import CodecError
from hubless.learn.codecs import huffman
from hubless.learn.codecs.layout import Reader


@st.composite
def texts(draw):
    alphabet = draw(st.integers(1, 300))
    count = draw(st.integers(0, 400))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = random.dirichlet(np.full(alphabet, draw(st.sampled_from([0.01, 0.3, 10.0]))))
    return random.choice(alphabet, count, p=share), alphabet


@PATIENT
@given(texts())
def test_symbols_come_back_from_a_stream_that_delimits_itself(text):
    symbols, alphabet = text
    data = huffman.coded(symbols, alphabet)
    assert len(data) == huffman.size(np.bincount(symbols, minlength=alphabet))
    reader = Reader(data + b"tail")
    assert huffman.decoded(reader, len(symbols), alphabet).tolist() == symbols.tolist()
    assert reader.left == 4


def test_codes_are_short():
    symbols = np.repeat(np.arange(6), [500, 250, 125, 60, 40, 25])
    share = np.bincount(symbols) / len(symbols)
    bits = 8 * (len(huffman.coded(symbols, 6)) - 7)
    entropy = -(share * np.log2(share)).sum() * len(symbols)
    assert entropy <= bits < entropy + 0.1 * len(symbols)
    assert huffman.lengths(np.array([9, 1, 1])).tolist() == [1, 2, 2]
    assert huffman.lengths(np.array([0, 5])).tolist() == [0, 1]


def test_very_uneven_counts_have_codes_of_15_bits_at_most():
    fibonacci = [1, 1]
    while len(fibonacci) < 60:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    length = huffman.lengths(np.array(fibonacci))
    assert length.max() <= huffman.LONGEST
    assert sum(2.0 ** -int(one) for one in length) == 1
    symbols = np.arange(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huffman, "lengths", lambda counts: length)
        data = huffman.coded(symbols, 60)
    assert huffman.decoded(Reader(data), 60, 60).tolist() == symbols.tolist()


@PATIENT
@given(st.binary(max_size=80), st.integers(0, 700), st.sampled_from([1, 2, 3, 33, 256]))
def test_any_bytes_are_symbols_or_refused(data, count, alphabet):
    try:
        found = huffman.decoded(Reader(data), count, alphabet)
    except CodecError:
        return
    assert len(found) == count
    assert not count or 0 <= found.min() <= found.max() < alphabet


@PATIENT
@given(texts(), st.data())
def test_flipped_bits_are_symbols_or_refused(text, data):
    symbols, alphabet = text
    packet = bytearray(huffman.coded(symbols, alphabet))
    for _ in range(data.draw(st.integers(1, 3))):
        packet[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = huffman.decoded(Reader(bytes(packet)), len(symbols), alphabet)
    except CodecError:
        return
    assert len(found) == len(symbols)


@pytest.mark.parametrize(
    ("lengths", "count", "stream", "words"),
    [
        ([1, 1], 9, b"\0", "9 symbols do not fit 1 bytes"),
        ([1, 1], 1 << 40, b"\0" * 9, "do not fit"),
        ([1, 1], 3, b"\0\0", "too short or too long"),
        ([2, 1], 3, b"\0", "no Huffman code"),
        ([0, 0], 3, b"\0", "no codes"),
        ([1, 0], 3, b"\2", "unknown"),
        ([15, 15], 3, b"\2", "no Huffman code"),
        ([1, 1], 0, b"\2", "no symbols"),
    ],
)
def test_hostile_codes(lengths, count, stream, words):
    data = bytes([lengths[0] | lengths[1] << 4]) + struct.pack("<I", len(stream)) + stream
    with pytest.raises(CodecError, match=words):
        huffman.decoded(Reader(data), count, 2)


@PATIENT
@given(st.lists(st.integers(0, 32), max_size=60), st.integers(0, 2**32))
def test_values_of_different_widths(widths, seed):
    values = [int(one) for one in np.random.default_rng(seed).integers(0, [1 << width for width in widths])]
    data = huffman.joined(np.array(values, np.int64), np.array(widths, np.int64))
    assert len(data) == -(-sum(widths) // 8)
    assert huffman.cut(data, np.array(widths, np.int64)).tolist() == values
    number = int.from_bytes(data.tobytes(), "little")
    starts = itertools.accumulate(widths, initial=0)
    assert [number >> start & (1 << width) - 1 for start, width in zip(starts, widths, strict=False)] == values
    with pytest.raises(CodecError, match="too short or too long"):
        huffman.cut(np.append(data, np.uint8(0)), np.array(widths, np.int64))
