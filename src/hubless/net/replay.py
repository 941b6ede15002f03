"""Which signed frames have been heard before: a window of ids for each sender."""

from __future__ import annotations

from heapq import heappush, heappushpop

from hubless.net.envelope import made_at
from hubless.net.policy import Limits
from hubless.net.transports.transport import PeerId


class _Window:
    """The highest ids of one sender, as a heap and as a set; what lies below ``floor`` is too old to tell."""

    __slots__ = ("floor", "heap", "known", "newest")

    def __init__(self) -> None:
        self.heap: list[int] = []
        self.known: set[int] = set()
        self.floor = self.newest = 0


class ReplayGuard:
    """Remembers the last ``Limits.replays`` ids of each of ``Limits.senders`` senders.

    A sender is forgotten only when all its ids are older than ``Limits.age``, after which none of them would be taken
    anyhow. When there is no room, frames of further senders are refused: taking them would mean to forget.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.windows: dict[PeerId, _Window] = {}

    def refuses(self, src: PeerId, ident: int, now: float) -> str | None:
        """Why a frame is not to be taken, by its id alone: "age", "replayed" or "crowded"."""
        if abs(now - made_at(ident)) > self.limits.age:
            return "age"
        window = self.windows.get(src)
        if window is not None:
            return "replayed" if ident <= window.floor or ident in window.known else None
        if len(self.windows) >= self.limits.senders:
            oldest = next(iter(self.windows))  # of those that sent last, the longest ago
            if now - made_at(self.windows[oldest].newest) <= self.limits.age:
                return "crowded"
            del self.windows[oldest]
        return None

    def mark(self, src: PeerId, ident: int) -> None:
        """Remember an id, of a frame whose signature holds."""
        window = self.windows.pop(src, None) or _Window()
        self.windows[src] = window
        window.known.add(ident)
        window.newest = max(window.newest, ident)
        if len(window.heap) < self.limits.replays:
            heappush(window.heap, ident)
        else:
            window.floor = heappushpop(window.heap, ident)
            window.known.discard(window.floor)
