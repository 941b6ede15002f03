"""What a peer does for others: the handler of a protocol, how many run at once, how many wait."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from hubless.errors import ConfigError, PeerBusy
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network

log = logging.getLogger("hubless.net")


class Context(msgspec.Struct):
    """Who asks.

    src:      the peer, as its link or its signature proves
    proto:    what it asked for; of a published message the topic
    deadline: Unix seconds after which nobody waits for the answer; ``inf`` when nobody waits at all
    signed:   whether the frame carried a signature
    net:      the network on which to ask others
    request:  id of the request to answer; 0 when there is none
    """

    src: PeerId
    proto: str
    deadline: float
    signed: bool
    net: Network
    request: int = 0

    def left(self) -> float:
        """Seconds until the deadline: the longest that a request made on the asker's behalf should take."""
        return self.deadline - self.net.now()


Answer = bytes | None
Handler = Callable[[Context, bytes], Answer] | Callable[[Context, bytes], Awaitable[Answer]]


class Served:
    """A handler, and the inbox before it.

    A plain function answers at once: it takes less than a millisecond and waits for nothing. An ``async`` one is a
    task: ``limit`` at a time, ``queue`` more waiting, and whoever comes then is told PeerBusy. What has waited beyond
    its deadline is not run. A handler that raises is counted, and whoever asked is told.
    """

    def __init__(self, net: Network, name: str, handler: Handler, limit: int, queue: int) -> None:
        for option, value, least in (("limit", limit, 1), ("queue", queue, 0)):
            if value < least:
                raise ConfigError(f"serve.{option} = {value}: must be at least {least}")
        if not callable(handler):
            raise ConfigError(f"serve.handler = {handler!r}: must be a function of a context and a body")
        self.net = net
        self.name = name
        self.handler: Callable[[Context, bytes], object] = handler
        self.limit = limit
        self.queue = queue
        self.running = 0
        self.waiting: deque[tuple[Context, bytes]] = deque()
        call = handler if inspect.isroutine(handler) else getattr(handler, "func", type(handler).__call__)
        self.waits = inspect.iscoroutinefunction(call)

    def take(self, ctx: Context, body: bytes) -> None:
        """Handle a message now, or let it wait. Raises PeerBusy."""
        if not self.waits:
            try:
                result = self.handler(ctx, body)
                if ctx.request:
                    self.net.answer(ctx, result)
            except Exception as error:
                self.net.fail(ctx, error)
        elif self.running < self.limit:
            self.running += 1
            self.net.begin(self._work(ctx, body), self.name)
        elif len(self.waiting) < self.queue:
            self.waiting.append((ctx, body))
        else:
            raise PeerBusy(f"{self.name}: {self.running} running, {len(self.waiting)} waiting")

    async def _work(self, ctx: Context, body: bytes) -> None:
        """Run the handler; then with what waits, as long as something does."""
        try:
            while True:
                try:
                    result = await self.handler(ctx, body)  # type: ignore[misc]
                    if result is not None and len(result) > self.net.limits.bulk and ctx.request:
                        await self.net.ready(ctx.src, len(result))
                    self.net.answer(ctx, result)
                except Exception as error:
                    self.net.fail(ctx, error)
                while self.waiting and self.waiting[0][0].deadline < self.net.now():
                    self.net.stats["expired"] += 1
                    self.waiting.popleft()
                if not self.waiting:
                    return
                ctx, body = self.waiting.popleft()
        finally:
            self.running -= 1
            self.net.ended()
