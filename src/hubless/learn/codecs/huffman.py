"""Canonical Huffman codes, as array arithmetic in both directions.

Bits lie from the lowest of a byte upwards. A decoder looks up what code would begin at EVERY bit, which gives each
bit's successor; squaring that map gives leaps of four symbols, so that only one symbol in four is walked to.
"""

from __future__ import annotations

import heapq
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.errors import CodecError
from hubless.learn.codecs.bits import packed, unpacked
from hubless.learn.codecs.layout import Reader

LONGEST = 15
LEAP = 2  # symbols of a leap, as a power of 2

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


def lengths(counts: NDArray[Any]) -> Bytes:
    """Length of each symbol's code, 0 for those that do not occur; at most 15, and 1 for a symbol that is alone."""
    counts = np.asarray(counts, np.int64)
    found = np.zeros(len(counts), np.uint8)
    symbols = np.flatnonzero(counts)
    if len(symbols) == 1:
        found[symbols] = 1
    while len(symbols) > 1:
        heap = [(int(counts[symbol]), place, [int(symbol)]) for place, symbol in enumerate(symbols)]
        heapq.heapify(heap)
        found[:] = 0
        place = len(heap)
        while len(heap) > 1:
            (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
            both = left + right
            found[both] += 1
            heapq.heappush(heap, (a + b, place, both))
            place += 1
        if found.max() <= LONGEST:
            break
        counts = np.where(counts > 0, (counts + 1) // 2, 0)  # flatter counts make a flatter tree
    return found


def _codes(length: Bytes) -> Integers:
    """Canonical codes with their first bit lowest."""
    code, before = 0, 0
    found = np.zeros(len(length), np.int64)
    for symbol in sorted(np.flatnonzero(length).tolist(), key=lambda one: (length[one], one)):
        width = int(length[symbol])
        code <<= width - before
        found[symbol] = int(f"{code:0{width}b}"[::-1], 2)
        code, before = code + 1, width
    return found


def joined(values: NDArray[Any], widths: NDArray[Any]) -> Bytes:
    """One stream of bits: of every value its ``widths [n]`` lowest, at most 32."""
    ends = np.cumsum(widths, dtype=np.int64)
    if not len(ends):
        return np.zeros(0, np.uint8)
    start = ends - widths
    shifted = values.astype(np.uint64) << (start & 31).view(np.uint64)
    word = start >> 5
    first = np.flatnonzero(np.diff(word, prepend=-1))  # the first value of each word; none is without one
    words = np.zeros(int(word[-1]) + 2, np.uint64)
    whole = np.bitwise_or.reduceat(shifted, first)
    words[:-1] = whole & np.uint64(0xFFFFFFFF)
    words[1:] |= whole >> np.uint64(32)
    return words.astype("<u4").view(np.uint8)[: -(-int(ends[-1]) // 8)]


def cut(data: Bytes, widths: NDArray[Any]) -> Integers:
    """The inverse of ``joined``. Raises CodecError unless the stream is exactly as long as the widths say."""
    widths = widths.astype(np.int64)
    ends = np.cumsum(widths)
    if len(data) != (-(-int(ends[-1]) // 8) if len(ends) else 0):
        raise CodecError("a stream of bits is too short or too long")
    start = ends - widths
    padded = np.concatenate([data, np.zeros(8, np.uint8)]).astype(np.uint64)
    word = np.zeros(len(widths), np.uint64)
    for place in range(5):
        word |= padded[(start >> 3) + place] << np.uint64(8 * place)
    mask = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    found: Integers = ((word >> (start & 7).astype(np.uint64)) & mask).astype(np.int64)
    return found


def size(counts: NDArray[Any]) -> int:
    """Bytes of ``coded`` symbols that occur so often."""
    bits = int((np.asarray(counts, np.int64) * lengths(counts)).sum())
    return -(-len(counts) // 2) + 4 - (-bits // 8)


def coded(symbols: NDArray[Any], alphabet: int) -> bytes:
    """Code lengths (4 bits a symbol), bytes of the stream (u32), stream."""
    length = lengths(np.bincount(symbols, minlength=alphabet))
    stream = joined(_codes(length)[symbols], length[symbols])
    return packed(length, 4).tobytes() + struct.pack("<I", len(stream)) + stream.tobytes()


def decoded(reader: Reader, count: int, alphabet: int) -> Integers:
    """The inverse: ``count`` symbols. Raises CodecError for anything that ``coded`` did not write."""
    length = unpacked(reader.take(-(-alphabet // 2)), 4, alphabet).astype(np.uint8)
    stream = reader.take(*reader.fields("I"))
    if not count:
        if len(stream):
            raise CodecError("bits for no symbols")
        return np.zeros(0, np.int64)
    if count > 8 * len(stream):
        raise CodecError(f"{count} symbols do not fit {len(stream)} bytes")
    symbol, width = _table(length)
    bits = 8 * len(stream)
    codes = _windows(stream)
    codes &= len(symbol) - 1
    step = width[codes]
    follow = np.minimum(np.arange(bits, dtype=np.int32) + step, bits)
    follow = np.append(follow, np.int32(bits))
    at = _walk(follow, count)
    if int(at[-1]) >= bits or not bool(step[at].all()):
        raise CodecError("a code is cut off or unknown")
    end = int(at[-1]) + int(step[at[-1]])
    if not bits - 8 < end <= bits:
        raise CodecError("a stream of codes is too short or too long")
    return symbol[codes[at]]


def _walk(follow: NDArray[np.int32], count: int) -> Integers:
    """Where each of ``count`` codes begins."""
    leap = follow
    for _ in range(LEAP):
        leap = leap[leap]
    starts, at, jump = [], 0, leap.data  # whose items are plain integers, at a third of the cost
    for _ in range(-(-count >> LEAP)):
        starts.append(at)
        at = jump[at]
    found = np.empty((1 << LEAP, len(starts)), np.int64)
    found[0] = starts
    for place in range(1, 1 << LEAP):
        found[place] = follow[found[place - 1]]
    return found.T.reshape(-1)[:count]


def _table(length: Bytes) -> tuple[Integers, NDArray[np.int32]]:
    """Symbol and length of the code at the front of every window of the longest code's bits."""
    used = np.flatnonzero(length)
    if not len(used):
        raise CodecError("no codes")
    longest = int(length.max())
    filled = int((1 << (longest - length[used].astype(np.int64))).sum())
    if filled != 1 << longest and not (len(used) == 1 and longest == 1):
        raise CodecError("lengths that no Huffman code has")
    symbol, width = np.zeros(1 << longest, np.int64), np.zeros(1 << longest, np.int32)
    codes = _codes(length)
    for one in used.tolist():
        symbol[codes[one] :: 1 << int(length[one])] = one
        width[codes[one] :: 1 << int(length[one])] = length[one]
    return symbol, width


def _windows(stream: Bytes) -> NDArray[np.int32]:
    """The 16 bits from every bit on."""
    padded = np.concatenate([stream, np.zeros(2, np.uint8)]).astype(np.int32)
    words = padded[:-2] | padded[1:-1] << 8 | padded[2:] << 16
    return (words[:, None] >> np.arange(8, dtype=np.int32)).reshape(-1)
