"""Merkle trees: one digest for many, and short proofs that one is among them.

The shape is that of RFC 6962, section 2.1: the left half of a tree is the largest complete one. So a log that grows
keeps its complete subtrees, and every earlier root is still a root of the same log. Leaves are digests that are
tagged as what they are (``suites``), never as nodes; a tree of one leaf has that leaf as its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hubless.ledger.proofs import Step
from hubless.ledger.suites import EMPTY, NODE, Hasher


class Log:
    """Digests in order, with the root over the first ``size`` of them for any size."""

    def __init__(self, hasher: Hasher, leaves: Iterable[bytes] = ()) -> None:
        self.hasher = hasher
        self.leaves: list[bytes] = []
        self._complete: dict[tuple[int, int], bytes] = {}
        for leaf in leaves:
            self.append(leaf)

    def __len__(self) -> int:
        return len(self.leaves)

    def append(self, leaf: bytes) -> None:
        """One more at the end."""
        self.leaves.append(leaf)

    def root(self, size: int | None = None) -> bytes:
        """The root [32] over the first ``size`` leaves, or over all."""
        size = len(self.leaves) if size is None else size
        return self._span(0, size) if size else self.hasher(EMPTY)

    def path(self, i: int, size: int | None = None) -> list[Step]:
        """Steps from leaf ``i`` to the root over the first ``size`` leaves. Raises IndexError for a leaf beyond."""
        size = len(self.leaves) if size is None else size
        if not 0 <= i < size <= len(self.leaves):
            raise IndexError(f"leaf {i} of {size}")
        low, high, steps = 0, size, []
        while high - low > 1:
            middle = low + _left(high - low)
            if i < middle:
                steps.append(Step("N", b"", self._span(middle, high)))
                high = middle
            else:
                steps.append(Step("N", self._span(low, middle), b""))
                low = middle
        return steps[::-1]

    def _span(self, low: int, high: int) -> bytes:
        """The root over leaves [low, high); complete subtrees are remembered."""
        if high - low == 1:
            return self.leaves[low]
        known = self._complete.get((low, high))
        if known is None:
            middle = low + _left(high - low)
            known = self.hasher(NODE, self._span(low, middle), self._span(middle, high))
            if (high - low) & (high - low - 1) == 0:
                self._complete[low, high] = known
        return known


class Frontier:
    """A log of which only the roots of its complete subtrees are kept: enough to grow it, in log(size) digests.

    It never changes; ``append`` gives another, so that every block of a tree of forks has its own for 32 bytes or so.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: tuple[bytes, ...] = ()) -> None:
        self.size = size
        self.peaks = peaks

    def append(self, hasher: Hasher, leaf: bytes) -> Frontier:
        """The frontier with one more leaf."""
        peaks, size = [*self.peaks, leaf], self.size
        while size & 1:
            right = peaks.pop()
            peaks[-1] = hasher(NODE, peaks[-1], right)
            size >>= 1
        return Frontier(self.size + 1, tuple(peaks))

    def root(self, hasher: Hasher) -> bytes:
        """The same root as that of a ``Log`` of these leaves."""
        if not self.peaks:
            return hasher(EMPTY)
        root = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            root = hasher(NODE, peak, root)
        return root


def root(hasher: Hasher, leaves: Sequence[bytes]) -> bytes:
    """The root over the leaves."""
    return Log(hasher, leaves).root()


def path(hasher: Hasher, leaves: Sequence[bytes], i: int) -> list[Step]:
    """Steps from leaf ``i`` to the root."""
    return Log(hasher, leaves).path(i)


def _left(size: int) -> int:
    """Leaves of the left half: the largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1
