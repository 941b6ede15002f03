"""A trio run that is a guest of the asyncio loop, for libraries that know no other loop; one thread does both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import trio


class Guest:
    """One trio run for a loop, shared by all who ``enter`` it; it ends when the last of them has left."""

    _of: ClassVar[dict[asyncio.AbstractEventLoop, Guest]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.users = 0
        self.ended: asyncio.Future[None] = loop.create_future()
        self._begun: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def enter(cls) -> Guest:
        """The run of the loop that runs now, begun if there is none."""
        loop = asyncio.get_running_loop()
        guest = cls._of.get(loop)
        if guest is None:
            guest = cls._of[loop] = cls(loop)
            trio.lowlevel.start_guest_run(
                guest._main,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                run_sync_soon_not_threadsafe=loop.call_soon,
                done_callback=guest._done,
            )
        guest.users += 1
        await asyncio.shield(guest._begun)
        return guest

    async def leave(self) -> None:
        """One who entered needs it no more."""
        self.users -= 1
        if self.users == 0:
            del self._of[self.loop]
            self.soon(self._over.set)
            await self.ended

    def start(self, work: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Begin a trio task; it must let no failure out."""
        self.soon(self._nursery.start_soon, work, *arguments)

    def soon(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Call something inside trio."""
        self._token.run_sync_soon(work, *arguments)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._begun.set_result(None)
            await self._over.wait()
            self._nursery.cancel_scope.cancel()

    def _done(self, outcome: Any) -> None:
        self._of.pop(self.loop, None)
        try:
            outcome.unwrap()
        except BaseException as error:
            self.ended.set_exception(error)
            if not self._begun.done():
                self._begun.set_exception(error)
        else:
            self.ended.set_result(None)
