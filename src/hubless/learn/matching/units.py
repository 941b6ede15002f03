"""What the axes of a network's values are made of: units that may change places, found out step by step.

Every axis of every parameter begins as an unknown (an atom). Operations say which axes follow the same permutation,
and an atom turns out to be another one, several side by side, or to stay as it is.
"""

from __future__ import annotations

from typing import NamedTuple


class Term(NamedTuple):
    """Neighbouring entries of an axis: ``units`` of an atom (None: they stay), each standing for ``repeat`` entries."""

    atom: int | None
    units: int
    repeat: int = 1

    @property
    def length(self) -> int:
        """Entries."""
        return self.units * self.repeat


Row = tuple[Term, ...]  # one axis
Axes = tuple[Row, ...]  # all axes of a value


def fixed(length: int) -> Row:
    """An axis that stays."""
    return (Term(None, length),)


def is_fixed(row: Row) -> bool:
    """Whether an axis stays."""
    return all(term.atom is None for term in row)


def length(row: Row) -> int:
    """Entries of an axis."""
    return sum(term.length for term in row)


def stretched(row: Row, times: int) -> Row:
    """An axis each of whose entries becomes ``times`` neighbouring ones."""
    return tuple(
        Term(None, term.length * times) if term.atom is None else term._replace(repeat=term.repeat * times)
        for term in row
    )


class Units:
    """Atoms, and what is known of them."""

    def __init__(self) -> None:
        self._known: dict[int, Row] = {}
        self._count = 0

    def fresh(self, units: int) -> Row:
        """Units of which nothing is known yet; a single one has nothing to change places with."""
        if units < 2:
            return fixed(units)
        self._count += 1
        return (Term(self._count, units),)

    def resolve(self, row: Row) -> Row:
        """An axis with all that is known put in; neighbours that stay are one."""
        found: list[Term] = []
        for term in row:
            known = None if term.atom is None else self._known.get(term.atom)
            for part in (term,) if known is None else stretched(self.resolve(known), term.repeat):
                if found and found[-1].atom is None and part.atom is None:
                    found[-1] = Term(None, found[-1].units + part.length)
                else:
                    found.append(part)
        return tuple(found)

    def pin(self, row: Row) -> None:
        """Nothing on this axis may move."""
        for term in self.resolve(row):
            if term.atom is not None:
                self._known[term.atom] = fixed(term.units)

    def unify(self, a: Row, b: Row) -> Row:
        """Two axes of one length follow the same permutations; where they are cut differently, only within the cuts."""
        while (a := self.resolve(a)) != (b := self.resolve(b)):
            at = next(i for i, (s, t) in enumerate(zip(a, b, strict=False)) if s != t)
            if a[at].length == b[at].length:
                self._equate(a[at], b[at])
            elif a[at].length > b[at].length:
                self._cut(a[at], b[at:])
            else:
                self._cut(b[at], a[at:])
        return a

    def _cut(self, longer: Term, others: Row) -> None:
        """Make a term lie beside the shorter ones that begin where it does."""
        if longer.atom is None:
            start = 0
            for term in others:
                if start < longer.length:
                    self.pin((term,))
                start += term.length
        elif others[0].length % longer.repeat:
            self.pin((longer,))
        else:
            first = others[0].length // longer.repeat
            self._known[longer.atom] = (*self.fresh(first), *self.fresh(longer.units - first))

    def _equate(self, a: Term, b: Term) -> None:
        """Two terms of one length."""
        if a.atom is None or b.atom is None or a.atom == b.atom:
            self.pin((a, b))
        elif a.repeat % b.repeat == 0:
            self._known[b.atom] = (a._replace(repeat=a.repeat // b.repeat),)
        elif b.repeat % a.repeat == 0:
            self._known[a.atom] = (b._replace(repeat=b.repeat // a.repeat),)
        else:
            self.pin((a, b))
