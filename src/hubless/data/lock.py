"""One process of a machine at a time: what is costly to make is made once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from hubless.data.fetch import cache


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until nobody else on this machine, process or thread, is inside under this name.

    The operating system drops the lock with the process that holds it. Where there are no such locks, or the cache
    cannot be written, everyone goes in: work is then done twice, and the same comes of it.
    """
    with ExitStack() as held:
        with suppress(ImportError, OSError):
            import fcntl

            folder = cache() / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context((folder / name).open("w")), fcntl.LOCK_EX)
        yield
