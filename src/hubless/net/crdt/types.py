"""Five delta CRDTs: what replicas change apart and merge in any order, any number of times.

A mutator returns a delta, a small state of the same type, and changes nothing; ``merge`` takes in a delta or a whole
state. ``merge`` is commutative, associative and idempotent: the state is a join semilattice, merge its join (Almeida,
Shoker, Baquero, "Delta state replicated data types", 2018). Order in time is that of Lamport clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from hubless.errors import ConfigError
from hubless.net.crdt.values import Value, encode, pack, unpack
from hubless.net.transports.transport import PeerId

Dot = tuple[PeerId, int]  # names one operation: who, and the how-manieth of theirs
Stamp = tuple[int, PeerId, int]  # Lamport time of an operation; the dot decides between equal ones
GONE = b""  # in place of a value that was taken away; no value has empty bytes


class State(Protocol):
    """A replicated value."""

    def merge(self, other: Self) -> None:
        """Take in another state or delta."""

    def value(self) -> Value:
        """What the state means to its user."""

    def tree(self) -> Any:
        """All of the state, such that equal states have equal trees."""


def canonical(state: State) -> bytes:
    """The one encoding of a state."""
    return encode(state.tree())


@dataclass
class GCounter:
    """Only grows. ``totals``: what each actor has counted."""

    totals: dict[PeerId, int] = field(default_factory=dict)

    def incr(self, actor: PeerId, n: int = 1) -> GCounter:
        """The delta by which an actor counts ``n`` more. Raises ConfigError."""
        if n < 0:
            raise ConfigError(f"n = {n}: this counter only grows")
        return GCounter({actor: self.totals.get(actor, 0) + n})

    def merge(self, other: Self) -> None:
        """The highest total of each actor."""
        for actor, total in other.totals.items():
            if total > self.totals.get(actor, 0):
                self.totals[actor] = total

    def value(self) -> int:
        """The sum over actors."""
        return sum(self.totals.values())

    def tree(self) -> Any:
        """Totals by actor."""
        return self.totals


@dataclass
class PNCounter:
    """Grows and shrinks: two counters that only grow."""

    up: GCounter = field(default_factory=GCounter)
    down: GCounter = field(default_factory=GCounter)

    def incr(self, actor: PeerId, n: int = 1) -> PNCounter:
        """The delta by which an actor counts ``n`` more, or less where ``n`` is negative."""
        return PNCounter(self.up.incr(actor, max(n, 0)), self.down.incr(actor, max(-n, 0)))

    def merge(self, other: Self) -> None:
        """Both counters."""
        self.up.merge(other.up)
        self.down.merge(other.down)

    def value(self) -> int:
        """What went up less what went down."""
        return self.up.value() - self.down.value()

    def tree(self) -> Any:
        """Both counters."""
        return [self.up.tree(), self.down.tree()]


@dataclass
class LWWMap:
    """The last writer of a key wins. ``entries``: the stamp and the packed value of each key, also of those gone."""

    entries: dict[str, tuple[Stamp, bytes]] = field(default_factory=dict)

    def set(self, key: str, value: Value, stamp: Stamp) -> LWWMap:
        """The delta that gives a key a value."""
        return LWWMap({key: (stamp, pack(value))})

    def drop(self, key: str, stamp: Stamp) -> LWWMap:
        """The delta that takes a key away."""
        return LWWMap({key: (stamp, GONE)})

    def merge(self, other: Self) -> None:
        """The later entry of each key."""
        for key, entry in other.entries.items():
            if key not in self.entries or entry > self.entries[key]:
                self.entries[key] = entry

    def value(self) -> dict[str, Value]:
        """Keys in order, with their values."""
        return {key: unpack(packed) for key, (_, packed) in sorted(self.entries.items()) if packed != GONE}

    def tree(self) -> Any:
        """Entries by key."""
        return self.entries


@dataclass
class Dotted:
    """Packed values, each under the dot of the operation that brought it; a dot that is gone never comes back.

    A removal names the dots it has seen, so an addition that it has not seen outlives it.
    """

    live: dict[Dot, bytes] = field(default_factory=dict)
    gone: set[Dot] = field(default_factory=set)
    held: dict[bytes, dict[Dot, None]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for dot, packed in self.live.items():
            self.held.setdefault(packed, {})[dot] = None

    def without(self, dots: Iterable[Dot]) -> Self:
        """The delta that takes the values under these dots away."""
        return type(self)(gone=set(dots))

    def merge(self, other: Self) -> None:
        """All values but those whose dot is gone in either."""
        for dot, packed in other.live.items():
            if dot not in self.gone and dot not in self.live:
                self.live[dot] = packed
                self.held.setdefault(packed, {})[dot] = None
        self.gone |= other.gone
        for dot in other.gone:
            if (old := self.live.pop(dot, None)) is not None:
                del self.held[old][dot]
                if not self.held[old]:
                    del self.held[old]

    def value(self) -> list[Value]:
        """The values, each once, ordered by packed bytes."""
        return [unpack(packed) for packed in sorted(self.held)]

    def tree(self) -> Any:
        """Live values by dot, and dots that are gone."""
        return [[[*dot, packed] for dot, packed in sorted(self.live.items())], sorted(self.gone)]


@dataclass
class ORSet(Dotted):
    """A set in which adding wins over removing at the same time. Its value is a list, ordered by packed bytes."""

    def dots(self, item: Value) -> list[Dot]:
        """The additions that hold an item in the set."""
        return sorted(self.held.get(pack(item), {}))

    def add(self, item: Value, dot: Dot) -> ORSet:
        """The delta that adds an item, in place of the additions of it that were seen."""
        return ORSet({dot: pack(item)}, set(self.dots(item)))

    def remove(self, item: Value) -> ORSet:
        """The delta that removes an item, as far as it was seen."""
        return self.without(self.dots(item))


@dataclass
class MVRegister(Dotted):
    """One value; those that were written at the same time are all kept until the next write. Its value is a list."""

    def assign(self, value: Value, dot: Dot) -> MVRegister:
        """The delta that writes a value in place of all that were seen."""
        return MVRegister({dot: pack(value)}, set(self.live))
