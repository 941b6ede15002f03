"""Where the rare labels of a tensor sit, written in three ways; the most frequent label is implicit.

    label    Huffman codes for the label of every entry: with three labels, 1 bit for the frequent one and 2 for others
    address  position of every rare entry in ``ceil(log2 n)`` bits, and which label it has
    gap      distance from one rare entry to the next: Huffman codes for its number of bits, the bits behind the first
             (Elias's gamma code with a better unary part), and which label it has

In all of them ``at [m]`` are rising positions of the rare entries among n, and ``rank [m]`` tells which of the k - 1
rare labels each has. What is written delimits itself, once m, n and k are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hubless.errors import CodecError
from hubless.learn.codecs import huffman
from hubless.learn.codecs.bits import packed, packed_size, unpacked
from hubless.learn.codecs.layout import Reader

Integers = NDArray[np.int64]
CLASSES = 33  # numbers of bits that a gap may have


@dataclass(frozen=True)
class Way:
    """One way to write where the rare labels sit.

    size:  bytes of (at, rank, n, k), without writing them
    write: those bytes
    read:  (reader, m, n, k) to (at, rank); raises CodecError for anything that ``write`` did not write
    """

    size: Callable[[Integers, Integers, int, int], int]
    write: Callable[[Integers, Integers, int, int], bytes]
    read: Callable[[Reader, int, int, int], tuple[Integers, Integers]]


def _label_size(at: Integers, rank: Integers, n: int, k: int) -> int:
    counts = np.bincount(rank + 1, minlength=k)
    counts[0] = n - len(at)
    return huffman.size(counts)


def _label(at: Integers, rank: Integers, n: int, k: int) -> bytes:
    symbols = np.zeros(n, np.int64)
    symbols[at] = rank + 1
    return huffman.coded(symbols, k)


def _unlabel(reader: Reader, m: int, n: int, k: int) -> tuple[Integers, Integers]:
    symbols = huffman.decoded(reader, n, k)
    at = np.flatnonzero(symbols)
    if len(at) != m:
        raise CodecError(f"{len(at)} rare labels, not {m}")
    return at, symbols[at] - 1


def _address_size(at: Integers, rank: Integers, n: int, k: int) -> int:
    return packed_size(len(at), _bits(n)) + packed_size(len(at), _bits(k - 1))


def _address(at: Integers, rank: Integers, n: int, k: int) -> bytes:
    return packed(at, _bits(n)).tobytes() + packed(rank, _bits(k - 1)).tobytes()


def _unaddress(reader: Reader, m: int, n: int, k: int) -> tuple[Integers, Integers]:
    at = _values(reader, _bits(n), m)
    return at, _values(reader, _bits(k - 1), m)


def _gap_size(at: Integers, rank: Integers, n: int, k: int) -> int:
    _, bits = _gaps(at)
    classes = huffman.size(np.bincount(bits, minlength=CLASSES))
    return classes - (-int((bits - 1).sum()) // 8) + packed_size(len(at), _bits(k - 1))


def _gap(at: Integers, rank: Integers, n: int, k: int) -> bytes:
    gap, bits = _gaps(at)
    low = huffman.joined(gap - (1 << (bits - 1)), bits - 1)
    return huffman.coded(bits, CLASSES) + low.tobytes() + packed(rank, _bits(k - 1)).tobytes()


def _ungap(reader: Reader, m: int, n: int, k: int) -> tuple[Integers, Integers]:
    bits = huffman.decoded(reader, m, CLASSES)
    if m and bits.min() < 1:
        raise CodecError("a gap of no bits")
    low = huffman.cut(reader.take(-(-int((bits - 1).sum()) // 8)), bits - 1)
    return np.cumsum((1 << (bits - 1)) + low) - 1, _values(reader, _bits(k - 1), m)


def _gaps(at: Integers) -> tuple[Integers, Integers]:
    """Distances, at least 1, and how many bits each has."""
    gap = np.diff(at, prepend=-1)
    return gap, np.frexp(gap.astype(np.float64))[1].astype(np.int64)


def _bits(choices: int) -> int:
    """Bits that tell one of so many things."""
    return max(0, choices - 1).bit_length()


def _values(reader: Reader, width: int, count: int) -> Integers:
    return unpacked(reader.take(packed_size(count, width)), width, count).astype(np.int64)


WAYS = {
    "label": Way(_label_size, _label, _unlabel),
    "address": Way(_address_size, _address, _unaddress),
    "gap": Way(_gap_size, _gap, _ungap),
}
