"""What one operation says, on the wire: a delta without its dot and stamp, which follow from who signed it when.

So nobody can count, add or write in another's name. ``state`` makes each message the delta of its type. Names of
different kinds are different states.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, TypeAlias

import msgspec

from hubless.net.crdt.documents import Updates
from hubless.net.crdt.types import Dot, GCounter, LWWMap, MVRegister, ORSet, PNCounter, State
from hubless.net.crdt.values import pack
from hubless.net.policy import Limits
from hubless.net.transports.transport import PeerId

MOST = (1 << 63) - 1  # of a total
Key: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # a peer id, or a hash
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=Limits().name)]
Dots: TypeAlias = dict[Key, list[Count]]  # grouped by actor

KINDS: dict[str, type[State]] = {
    "total": GCounter,
    "counter": PNCounter,
    "map": LWWMap,
    "set": ORSet,
    "register": MVRegister,
    "document": Updates,
}


def grouped(dots: Iterable[Dot]) -> Dots:
    """Dots as they are sent."""
    groups: Dots = {}
    for actor, seq in sorted(dots):
        groups.setdefault(bytes.fromhex(actor), []).append(seq)
    return groups


def _named(groups: Dots) -> set[Dot]:
    return {(actor.hex(), seq) for actor, seqs in groups.items() for seq in seqs}


def _total(actor: PeerId, total: int) -> GCounter:
    return GCounter({actor: total} if total else {})


class Grow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="grow"):
    """The actor's new total in a GCounter."""

    name: Name
    total: Count
    kind: ClassVar[str] = "total"

    def state(self, dot: Dot, lamport: int) -> GCounter:
        """The delta, by who said it and when."""
        return _total(dot[0], self.total)


class Tally(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="tally"):
    """The actor's new totals in a PNCounter."""

    name: Name
    up: Count
    down: Count
    kind: ClassVar[str] = "counter"

    def state(self, dot: Dot, lamport: int) -> PNCounter:
        """The delta, by who said it and when."""
        return PNCounter(_total(dot[0], self.up), _total(dot[0], self.down))


class Put(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="put"):
    """A key of an LWWMap gets a value."""

    name: Name
    key: str
    value: Any
    kind: ClassVar[str] = "map"

    def state(self, dot: Dot, lamport: int) -> LWWMap:
        """The delta, by who said it and when."""
        return LWWMap().set(self.key, self.value, (lamport, *dot))


class Drop(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="drop"):
    """A key of an LWWMap is taken away."""

    name: Name
    key: str
    kind: ClassVar[str] = "map"

    def state(self, dot: Dot, lamport: int) -> LWWMap:
        """The delta, by who said it and when."""
        return LWWMap().drop(self.key, (lamport, *dot))


class Add(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="add"):
    """An ORSet gets an item, in place of the additions ``seen``."""

    name: Name
    item: Any
    seen: Dots
    kind: ClassVar[str] = "set"

    def state(self, dot: Dot, lamport: int) -> ORSet:
        """The delta, by who said it and when."""
        return ORSet({dot: pack(self.item)}, _named(self.seen) - {dot})


class Remove(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="remove"):
    """An ORSet loses the additions ``seen``."""

    name: Name
    seen: Dots
    kind: ClassVar[str] = "set"

    def state(self, dot: Dot, lamport: int) -> ORSet:
        """The delta, by who said it and when."""
        return ORSet().without(_named(self.seen))


class Assign(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="assign"):
    """An MVRegister gets a value, in place of those ``seen``."""

    name: Name
    value: Any
    seen: Dots
    kind: ClassVar[str] = "register"

    def state(self, dot: Dot, lamport: int) -> MVRegister:
        """The delta, by who said it and when."""
        return MVRegister({dot: pack(self.value)}, _named(self.seen) - {dot})


class Clear(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="clear"):
    """An MVRegister loses the values ``seen``."""

    name: Name
    seen: Dots
    kind: ClassVar[str] = "register"

    def state(self, dot: Dot, lamport: int) -> MVRegister:
        """The delta, by who said it and when."""
        return MVRegister().without(_named(self.seen))


class Edit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="edit"):
    """A loro document gets changes; ``era`` counts how often the actor had to begin anew, see ``documents``."""

    name: Name
    era: Count
    update: bytes
    kind: ClassVar[str] = "document"

    def state(self, dot: Dot, lamport: int) -> Updates:
        """The delta, by who said it and when."""
        return Updates({dot: (self.era, self.update)})


Delta: TypeAlias = Grow | Tally | Put | Drop | Add | Remove | Assign | Clear | Edit
