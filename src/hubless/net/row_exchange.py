"""Rows of a round, swapped with neighbours: rounds have absolute times, so that a straggler makes nobody else late.

Stage k of K in round r (from 0) ends at ``start + (r + (k + 1) / K) * period``, or as soon as all expected rows are
there. So nobody waits in a population where all are well, and the schedule bounds every wait where some are not. With
waits counted from each peer's own beginning, one straggler would make its neighbours late, and they theirs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from hubless.errors import ConfigError, NetworkError
from hubless.net.policy import MIB

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.transports.transport import PeerId

OVERHEAD = 1024  # bytes of a frame beside the row: envelope, signature, round
EARLY = 8  # rows that are kept of one sender for exchanges that have not begun here
SENDERS = 1024  # of whom such rows, and the round they have reached, are kept
STAGES = 4096  # exchanges that a round may have
BEHIND = 2  # rounds by which most are ahead of one that fell behind

Place = tuple[int, int]  # round, stage


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What travels; a row that no frame can hold is a blob of ``cid`` at its sender."""

    round: int
    stage: int
    body: bytes
    cid: bytes = b""


class _Swap:
    """One exchange in progress: who is expected, and what came."""

    def __init__(self, expect: Sequence[PeerId]) -> None:
        self.expect = dict.fromkeys(expect)
        self.got: dict[PeerId, bytes] = {}
        self.fetching: dict[PeerId, None] = {}
        self.changed = asyncio.Event()
        self.most_at: float | None = None  # when more than half were there


class RowExchange:
    """Rows as bytes, by ``Network.send``; what is late, unexpected, doubled or malformed is dropped and counted.

    net, name: rows of the same name meet; the protocol is ``rows/NAME``
    start:    unix time at which round 0 begins
    period:   seconds that a round may take
    patience: seconds that a row may come behind those of most, where the schedule would give it longer; who was
              waited for in vain is not waited for until it is in step again. None: the schedule alone
    most:     bytes that a row may have
    late:     rows that came after their exchange had ended
    counts:   rows that were dropped, by reason
    """

    def __init__(
        self, net: Network, name: str, *, start: float, period: float, patience: float | None = None,
        most: int = 1024 * MIB,
    ) -> None:  # fmt: skip
        for label, value in (("period", period), ("patience", patience), ("most", most)):
            if value is not None and not value > 0:
                raise ConfigError(f"{label} = {value:g}: must be positive")
        self.net, self.start, self.period, self.patience, self.most = net, start, period, patience, most
        self.late = 0
        self.counts: Counter[str] = Counter()
        self._proto = f"rows/{name}"
        self._open: dict[Place, _Swap] = {}
        self._closed: Place = (-1, 0)
        self._early: dict[PeerId, dict[Place, _Row]] = {}
        self._reached: dict[PeerId, int] = {}
        self._slow: dict[PeerId, None] = {}
        self._gone: dict[PeerId, None] = {}
        self._posts: dict[Any, None] = {}  # tasks that send a row
        net.serve(self._proto, self._take)

    def current(self) -> int:
        """The round to be in now: that of the schedule, or one that more than half of those heard have reached."""
        timed = int((self.net.now() - self.start) // self.period)
        reached = sorted(self._reached.values())
        return max(0, timed, reached[(len(reached) - 1) // 2] if reached else 0)

    def heard(self, peer: PeerId, r: int = 0) -> None:
        """A peer is there, and in round r; what it sends says so, too."""
        self._gone.pop(peer, None)
        if peer in self._reached or len(self._reached) < SENDERS:
            self._reached[peer] = max(r, self._reached.get(peer, 0))
        self._wake()

    def gone(self, peer: PeerId) -> None:
        """A peer is no longer there: it is not waited for until it is heard again."""
        self._gone[peer] = None
        self._reached.pop(peer, None)
        self._early.pop(peer, None)
        self._wake()

    @property
    def cut_off(self) -> bool:
        """Whether all peers are gone. Then it is this one that is, so to speak: it keeps to the schedule."""
        return bool(self._gone) and not self._reached

    async def swap(
        self, r: int, row: bytes | Mapping[PeerId, bytes], to: Sequence[PeerId], expect: Sequence[PeerId], *,
        stage: int = 0, stages: int = 1,
    ) -> dict[PeerId, bytes]:  # fmt: skip
        """Send to some, one row for all or one each; what arrived of those expected, in the order of their ids.

        It ends when all are there that are not gone, at the stage's time, or when most have gone on without this one;
        at once where nobody is expected, but for one who is cut off: that one keeps to the time. A row for a peer that
        cannot be reached is lost. Raises ConfigError for a row of more than ``most`` bytes.
        """
        place = (r, stage)
        mine = row if isinstance(row, Mapping) else dict.fromkeys(to, row)
        if over := [len(mine[peer]) for peer in to if len(mine[peer]) > self.most]:
            raise ConfigError(f"row exchange: a row of {over[0]} bytes; at most {self.most} go")
        swap = self._open[place] = _Swap([peer for peer in expect if peer != self.net.peer_id])
        try:
            for peer in swap.expect:
                if early := self._early.get(peer, {}).pop(place, None):
                    self._accept(swap, peer, early)
            await self._send(place, mine, to)
            await self._wait(swap, r, self.start + (r + (stage + 1) / stages) * self.period)
        finally:
            del self._open[place]
            self._close(place, swap)
        return {peer: swap.got[peer] for peer in sorted(swap.got)}

    # sending

    async def _send(self, place: Place, mine: Mapping[PeerId, bytes], to: Sequence[PeerId]) -> None:
        bodies: dict[bytes, bytes] = {}  # made once for all who get the same
        for peer in to:
            row = mine[peer]
            if row not in bodies:
                cid = b"" if self._fits(row) else await self.net.blob_put(row, provide=False)
                bodies[row] = msgspec.msgpack.encode(_Row(*place, b"" if cid else row, cid))
            self._posts[self.net.spawn(self._post(peer, bodies[row]), f"row for {peer[:8]}")] = None

    def _fits(self, row: bytes) -> bool:
        return len(row) + OVERHEAD <= self.net.max_frame

    async def _post(self, peer: PeerId, body: bytes) -> None:
        try:
            await self.net.ready(peer, len(body))
            self.net.send(peer, self._proto, body)
        except NetworkError:
            self.counts["not sent"] += 1
        finally:
            self._posts.pop(asyncio.current_task(), None)

    async def flush(self) -> None:
        """Until every row that is under way has been sent, or cannot be."""
        await asyncio.gather(*self._posts, return_exceptions=True)

    # receiving

    def _take(self, ctx: Any, body: bytes) -> None:
        """A row, or something that claims to be one: never an error, whatever it is."""
        peer: PeerId = ctx.src
        try:
            row = msgspec.msgpack.decode(body, type=_Row)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self.counts["malformed"] += 1
            return
        if not (0 <= row.round < 1 << 32 and 0 <= row.stage < STAGES) or len(row.cid) not in (0, 32):
            self.counts["malformed"] += 1
            return
        place = (row.round, row.stage)
        if swap := self._open.get(place):
            if peer not in swap.expect:
                self.counts["unexpected"] += 1
            else:
                self._in_step(peer, row.round)
                self._accept(swap, peer, row)
        elif place <= self._closed:
            self.late += 1
            self.counts["late"] += 1
            if row.round >= self._closed[0] and peer in self._reached:
                self._in_step(peer, row.round)
        else:
            self._keep(peer, place, row)

    def _in_step(self, peer: PeerId, r: int) -> None:
        self._slow.pop(peer, None)
        self.heard(peer, r)

    def _keep(self, peer: PeerId, place: Place, row: _Row) -> None:
        """A row of an exchange that has not begun here."""
        if peer not in self._early and len(self._early) >= SENDERS:
            self.counts["too many"] += 1
            return
        kept = self._early.setdefault(peer, {})
        if place in kept:
            self.counts["doubled"] += 1
            return
        if len(kept) >= EARLY or sum(len(one.body) for one in kept.values()) + len(row.body) > 2 * self.net.max_frame:
            self.counts["too early"] += 1
        else:
            kept[place] = row
        if peer in self._reached:
            self._in_step(peer, row.round)

    def _accept(self, swap: _Swap, peer: PeerId, row: _Row) -> None:
        if peer in swap.got or peer in swap.fetching:
            self.counts["doubled"] += 1
        elif len(row.body) > self.most:
            self.counts["too large"] += 1
        elif row.cid:
            swap.fetching[peer] = None
            self.net.spawn(self._fetch(swap, peer, row.cid), f"row of {peer[:8]}")
        else:
            swap.got[peer] = row.body
            swap.changed.set()

    async def _fetch(self, swap: _Swap, peer: PeerId, cid: bytes) -> None:
        try:
            row = await self.net.blob_get(cid, peers=[peer])
        except NetworkError:
            self.counts["not fetched"] += 1
            return
        if len(row) > self.most:
            self.counts["too large"] += 1
            return
        swap.got[peer] = row
        swap.changed.set()

    # waiting

    async def _wait(self, swap: _Swap, r: int, until: float) -> None:
        while not self._complete(swap, r):
            end, now = until, self.net.now()
            if self.patience is not None and 2 * len(swap.got) >= len(swap.expect):
                swap.most_at = now if swap.most_at is None else swap.most_at
                end = min(until, swap.most_at + self.patience)
            if end <= now:
                return
            swap.changed.clear()
            try:
                await asyncio.wait_for(swap.changed.wait(), end - now)
            except TimeoutError:
                continue

    def _complete(self, swap: _Swap, r: int) -> bool:
        reached = sorted(self._reached.values())
        if reached and reached[(len(reached) - 1) // 2] >= r + BEHIND:
            return True
        waiting = [peer for peer in swap.expect if peer not in swap.got and peer not in self._gone]
        if self.patience is not None:
            waiting = [peer for peer in waiting if peer not in self._slow]
        return not waiting and not self.cut_off

    def _wake(self) -> None:
        for swap in self._open.values():
            swap.changed.set()

    def _close(self, place: Place, swap: _Swap) -> None:
        self._closed = max(self._closed, place)
        for peer in swap.expect:
            if peer not in swap.got and peer not in self._gone:
                self._slow[peer] = None
        for peer, kept in list(self._early.items()):
            for past in [one for one in kept if one <= self._closed]:
                del kept[past]
                self.counts["unexpected"] += 1
            if not kept:
                del self._early[peer]
