"""What arrived before what it stands on: kept until that comes, dropped when it does not."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Pending(Generic[Item]):
    """Items by the hash they wait for; at most ``limit``, each for ``timeout`` seconds."""

    def __init__(self, timeout: float, limit: int) -> None:
        self.timeout = timeout
        self.limit = limit
        self._waiting: OrderedDict[bytes, list[tuple[float, Item]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, parent: bytes) -> bool:
        return parent in self._waiting

    def wait(self, parent: bytes, item: Item, now: float) -> int:
        """Keep an item until ``parent`` is there; how many had to go for it."""
        self._waiting.setdefault(parent, []).append((now + self.timeout, item))
        self._size += 1
        gone = 0
        while self._size > self.limit:
            gone += self._forget(next(iter(self._waiting)))
        return gone

    def release(self, parent: bytes) -> list[Item]:
        """What waited for ``parent``."""
        items = self._waiting.pop(parent, [])
        self._size -= len(items)
        return [item for _, item in items]

    def expire(self, now: float) -> int:
        """Drop what has waited too long; how many."""
        late = [parent for parent, items in self._waiting.items() if items[-1][0] <= now]
        return sum(self._forget(parent) for parent in late)

    def _forget(self, parent: bytes) -> int:
        return len(self.release(parent))
