"""Waiting with a timeout that costs nothing where there is nothing to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any

from hubless.errors import RequestTimeout
from hubless.net.transports.transport import PeerId


async def within(seconds: float, peer: PeerId, waiting: Coroutine[Any, Any, None]) -> None:
    """Wait for ``waiting``, which mostly has nothing to wait for: a timeout is set up only when it does.

    Raises RequestTimeout.
    """
    try:
        first = waiting.send(None)
    except StopIteration:
        return
    try:
        async with asyncio.timeout(seconds):
            await _rest(waiting, first)
    except TimeoutError:
        raise RequestTimeout(f"{peer[:8]} could not be reached in {seconds:g} s") from None


@coroutine
def _rest(begun: Coroutine[Any, Any, None], first: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine that has begun and waits for ``first``."""
    waits = first
    while True:
        raised: BaseException | None = None
        try:
            yield waits
        except BaseException as error:
            raised = error
        try:
            waits = begun.throw(raised) if raised else begun.send(None)
        except StopIteration:
            return
