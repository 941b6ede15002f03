"""Who descends from whom in a graph that only grows: every item has the set of its ancestors as the bits of a number.

An item is known by its hash and, inside, by its place in the order of arrival, which is a topological one. So set
operations over thousands of ancestors are single operations on integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hubless.errors import UnknownParent


class Ancestry:
    """``past[i]`` has bit j where item j is item i or one of its ancestors."""

    def __init__(self) -> None:
        self.hashes: list[bytes] = []
        self.index: dict[bytes, int] = {}
        self.past: list[int] = []

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, key: bytes) -> bool:
        return key in self.index

    def add(self, key: bytes, parents: Sequence[bytes]) -> int:
        """The place of a new item. Raises UnknownParent, with the first parent that is not here."""
        past = 1 << len(self.hashes)
        for parent in parents:
            if parent not in self.index:
                raise UnknownParent(f"{key.hex()[:8]} stands on {parent.hex()[:8]}, which is not here", parent)
            past |= self.past[self.index[parent]]
        self.index[key] = len(self.hashes)
        self.hashes.append(key)
        self.past.append(past)
        return len(self.hashes) - 1

    def descends(self, item: int, other: int) -> bool:
        """Whether ``other`` is ``item`` or an ancestor of it."""
        return bool(self.past[item] >> other & 1)


def bits(mask: int) -> Iterator[int]:
    """The places of the bits that are set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
