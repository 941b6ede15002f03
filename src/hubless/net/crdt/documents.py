"""Loro documents (extra ``[crdt]``): text, lists, trees and maps. Their updates travel inside signed operations.

Loro signs nothing and believes whoever an update names as its author. So an actor speaks only as loro peers that belong
to it, one an ``era``, and an update begins where the one before it ended; what breaks this, every replica leaves out
alike. A replica without loro checks, folds and forwards these operations like any other and has the same digest: only
reading and editing need the extra.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from hubless.errors import ConfigError, MessageError, RecordRefused
from hubless.net.crdt.types import Dot
from hubless.net.crdt.values import Value
from hubless.net.transports.transport import PeerId


@dataclass
class Updates:
    """All updates of one document: era and bytes under the dot of the operation that carries them."""

    held: dict[Dot, tuple[int, bytes]] = field(default_factory=dict)
    order: list[Dot] = field(default_factory=list, init=False, compare=False, repr=False)  # as they came

    def __post_init__(self) -> None:
        self.order.extend(self.held)

    def merge(self, other: Self) -> None:
        """Take in other updates."""
        for dot, update in other.held.items():
            if dot not in self.held:
                self.held[dot] = update
                self.order.append(dot)

    def value(self) -> Value:
        """What the document holds, as dicts, lists and texts. Raises ConfigError without the extra."""
        view = View()
        view.read(self)
        return view.loro.get_deep_value()

    def tree(self) -> Any:
        """Each update by its hash."""
        return [[*dot, era, hashlib.sha256(update).digest()] for dot, (era, update) in sorted(self.held.items())]


class View:
    """A loro document made of the updates of a state.

    ends:    how many changes of an actor's era were accepted
    refused: updates that were not their actor's to say, or do not decode
    """

    def __init__(self) -> None:
        self.loro: Any = _loro().LoroDoc()
        self.ends: dict[tuple[PeerId, int], int] = {}
        self.refused = 0
        self._read = 0
        self._own: set[Dot] = set()  # made here, and not read yet

    def read(self, updates: Updates) -> None:
        """Take in what is new since the last time, each actor's updates in their order."""
        new, self._read = updates.order[self._read :], len(updates.order)
        for dot in sorted(new):
            if dot in self._own:
                self._own.remove(dot)
                continue
            era, update = updates.held[dot]
            try:
                self.ends[dot[0], era] = self._accept(speaker(dot[0], era), self.ends.get((dot[0], era), 0), update)
            except MessageError:
                self.refused += 1

    def own(self, dot: Dot, era: int, end: int) -> None:
        """Know an update that was exported from this document."""
        self._own.add(dot)
        self.ends[dot[0], era] = end

    def _accept(self, peer: int, start: int, update: bytes) -> int:
        """Import one update and return where it ends."""
        alone = _called(_loro().LoroDoc().import_, update)  # what is in it, whatever its header claims
        spans = dict(alone.success.inner())
        for other, span in (alone.pending.inner() if alone.pending else {}).items():
            low, high = spans.get(other, span)
            spans[other] = (min(low, span[0]), max(high, span[1]))
        if list(spans) != [peer] or spans[peer][0] != start:
            raise MessageError("an update that is not its actor's to say, or leaves a gap")
        _called(self.loro.import_, update)
        return int(spans[peer][1])


class Document:
    """One document of a store, to read and to edit.

    Edit ``loro``, then ``commit``: only what was committed reaches others, survives a crash, and outlives the cut of an
    equivocating actor, after which ``loro`` is another object. What was built on changes that were cut goes with them.
    """

    def __init__(
        self, actor: PeerId, state: Callable[[], Updates], write: Callable[[int, bytes], Dot], longest: int
    ) -> None:
        self._actor, self._state, self._write, self._longest = actor, state, write, longest
        self._view = View()
        self._folded = Updates()
        self._era = 0

    @property
    def loro(self) -> Any:
        """The ``loro.LoroDoc``, with all that has arrived."""
        updates = self._state()
        if updates is not self._folded:
            if self._folded.held:  # folded again, without what was cut
                self._view = View()
            self._folded = updates
        self._view.read(updates)
        ends = self._view.ends
        self._era = max([self._era, *(era for actor, era in ends if actor == self._actor)])
        if self._held() < ends.get((self._actor, self._era), 0):  # own changes that wait for ones that were cut
            self._era += 1
        if self._view.loro.peer_id != speaker(self._actor, self._era):
            self._view.loro.peer_id = speaker(self._actor, self._era)
        return self._view.loro

    def commit(self) -> int:
        """Sign what was edited since the last time; returns the number of changes.

        Raises RecordRefused for a single change that is too long for an operation.
        """
        before = self._view.loro
        before.commit()
        document = self.loro
        start, end = self._view.ends.get((self._actor, self._era), 0), self._held()
        if document is not before or end <= start:
            return 0
        self._commit(start, end)
        return end - start

    def value(self) -> Value:
        """What the document holds, as dicts, lists and texts."""
        return self.loro.get_deep_value()

    def shallow(self) -> bytes:
        """A loro snapshot of the present state without its history: small, and enough to read or to begin anew from."""
        document = self.loro
        document.commit()
        kit = _loro()
        return bytes(document.export(kit.ExportMode.ShallowSnapshot(document.oplog_frontiers)))

    def _held(self) -> int:
        last = self._view.loro.oplog_vv.get_last(speaker(self._actor, self._era))
        return 0 if last is None else int(last) + 1

    def _commit(self, start: int, end: int) -> None:
        kit = _loro()
        span = kit.IdSpan(speaker(self._actor, self._era), kit.CounterSpan(start, end))
        update = bytes(self._view.loro.export(kit.ExportMode.UpdatesInRange([span])))
        if len(update) > self._longest:
            if end - start == 1:
                raise RecordRefused(f"a change of {len(update)} bytes: at most {self._longest} go into one operation")
            middle = (start + end) // 2
            self._commit(start, middle)
            self._commit(middle, end)
            return
        self._view.own(self._write(self._era, update), self._era, end)


def opened(snapshot: bytes) -> Any:
    """The ``loro.LoroDoc`` of a snapshot. Raises ConfigError without the extra, MessageError for other bytes."""
    document = _loro().LoroDoc()
    _called(document.import_, snapshot)
    return document


def speaker(actor: PeerId, era: int) -> int:
    """The loro peer [63 bits] as which an actor speaks."""
    return int.from_bytes(hashlib.sha256(f"{actor} {era}".encode()).digest()[:8], "big") >> 1


def _loro() -> Any:
    try:
        import loro
    except ImportError:
        raise ConfigError("document: needs loro; pip install 'hubless[crdt]'") from None
    return loro


def _called(function: Callable[[bytes], Any], data: bytes) -> Any:
    """A call into loro with a peer's bytes. Raises MessageError."""
    try:
        return function(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what it raises, a panic too, is no Exception
        raise MessageError(f"loro: {error}") from None
