"""A peer's network: one implementation of messages, requests and services over any transport."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, Self, TypeVar

import msgspec

from hubless.errors import (
    ConfigError,
    HublessError,
    MessageError,
    NetworkError,
    PeerBusy,
    PeerUnreachable,
    RemoteError,
    RequestTimeout,
)  # fmt: skip
from hubless.net.envelope import ERR, REQ, RES, SEND, Ids
from hubless.net.frames import Frames
from hubless.net.identity import Identity
from hubless.net.offered import BUILT_IN, Services
from hubless.net.policy import Limits, Timeouts
from hubless.net.serving import Context, Handler, Served, log
from hubless.net.transports.transport import NOTHING, PeerId, Reach, Transport
from hubless.net.waiting import within

Result = TypeVar("Result")
BUSY, FAILED, ABSENT = range(3)  # why an answer is an error
TEXT = 500  # most characters of an error that travel
_encode = msgspec.msgpack.Encoder().encode
_error = msgspec.msgpack.Decoder(tuple[int, str]).decode


@dataclass(frozen=True)
class PeerInfo:
    """A peer that was heard or introduced, and how a frame would get to it now."""

    peer: PeerId
    reach: Reach


class Network(Services):
    """What one peer can say to others, and they to it.

    sign:     "auto" signs what no link proves; "always" signs every frame
    seed:     of ``rng``, together with the peer's id; no secret is drawn from it
    timeouts: how long to wait for a peer, and ``limits`` how much to take from one
    stats:    counts: "frames" and "bytes" sent, "frames heard", "bytes heard", "reject:REASON" of what was dropped,
              "late reply", "reply lost", "expired" in a queue, "busy", "failed:PROTO"

    Use it as ``async with Network(transport, identity) as net``, or ``start`` and ``close`` it.
    """

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        *,
        sign: Literal["auto", "always"] = "auto",
        seed: int = 0,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        if sign not in ("auto", "always"):
            raise ConfigError(f"network.sign = {sign!r}: must be 'auto' or 'always'")
        if transport.peer_id != identity.peer_id:
            raise ConfigError(f"network.identity = {identity.peer_id[:8]}: the transport's is {transport.peer_id[:8]}")
        self.transport = transport
        self.identity = identity
        self.peer_id: PeerId = identity.peer_id
        self.timeouts = timeouts
        self.limits = limits
        self.max_frame = transport.max_frame
        self.rng = random.Random(f"{seed}/{self.peer_id}")
        self.now: Callable[[], float] = transport.now
        self.sleep: Callable[[float], Coroutine[Any, Any, None]] = transport.sleep
        self.run = transport.run
        self._stats: Counter[str] = Counter()
        self._sent = self._sent_bytes = self._heard = self._heard_bytes = 0
        self._frames = Frames(transport, identity, limits, always=sign == "always")
        self._pack = self._frames.pack
        self._ids = Ids()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: dict[int, tuple[PeerId, asyncio.Future[bytes]]] = {}
        self._served: dict[str, Served] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._peers: dict[PeerId, None] = {}
        self._lost_handlers: list[Callable[[PeerId], None]] = []

    # being there

    async def start(self) -> Self:
        """Listen. Raises ConfigError for an address that is taken or not allowed."""
        self._loop = asyncio.get_running_loop()
        self.transport.on_frame(self._hear)
        self.transport.on_lost(self._lost)
        await self.transport.start()
        return self

    async def close(self) -> None:
        """End: tasks are cancelled, requests under way fail with PeerUnreachable; twice is the same as once."""
        tasks = self._end()
        current = asyncio.current_task()
        if others := [task for task in tasks if task is not current]:
            await asyncio.wait(others, timeout=self.timeouts.close)
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _end(self) -> list[asyncio.Task[Any]]:
        self._loop = None
        for peer, future in self._pending.values():
            if not future.done():
                future.set_exception(PeerUnreachable(f"{self.peer_id[:8]} closed before {peer[:8]} answered"))
        self._pending.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return tasks

    # messages

    def send(self, peer: PeerId, proto: str, body: bytes) -> None:
        """Send at most once, now or never. Raises FrameTooLarge, PeerUnreachable."""
        self._post(SEND, self._ids.next(self.now()), peer, proto, 0, body)

    async def request(
        self, peer: PeerId, proto: str, body: bytes, timeout: float | None = None, *, expects: int = 0
    ) -> bytes:
        """Ask, once, and wait for the answer.

        timeout: seconds for all of it, dialling too; ``Timeouts.request`` without one. It travels with the question
        expects: bytes that the answer may have, when that is much: it can then take the lane for large frames

        Raises RequestTimeout, PeerUnreachable, PeerBusy, RemoteError (with its text), FrameTooLarge.
        """
        loop = self._loop
        if loop is None:
            raise PeerUnreachable(f"{self.peer_id[:8]} is not running")
        seconds = self.timeouts.request if timeout is None else timeout
        left = seconds
        if peer != self.peer_id:
            size = len(body)
            waiting = self.transport.ready(peer, size if size > expects else expects)
            if waiting is not NOTHING:
                begun = loop.time()
                await within(seconds, peer, waiting)
                left += begun - loop.time()
        ident = self._ids.next(self.now())
        future: asyncio.Future[bytes] = loop.create_future()
        self._pending[ident] = peer, future
        timer = loop.call_later(left, self._expire, ident, seconds)
        try:
            self._post(REQ, ident, peer, proto, int(left * 1000) or 1, body)
            return await future
        finally:
            timer.cancel()
            self._pending.pop(ident, None)

    async def ready(self, peer: PeerId, size: int = 0) -> None:
        """Wait for room before a ``send`` of ``size`` bytes; dials if needed. Raises PeerUnreachable."""
        if peer != self.peer_id:
            await self.transport.ready(peer, size)

    def serve(self, proto: str, handler: Handler, *, limit: int | None = None, queue: int | None = None) -> Served:
        """Answer what others ask for under ``proto``, until the returned inbox is given to ``withdraw``.

        A handler takes a Context and the body, and returns bytes or None. Raises ConfigError for a name that is taken
        or too long.
        """
        if not 0 < len(proto) <= self.limits.name:
            raise ConfigError(f"serve.proto = {proto!r}: must have 1 to {self.limits.name} characters")
        if proto in self._served:
            raise ConfigError(f"serve.proto = {proto!r}: served already")
        served = self.inbox(proto, handler, limit=limit, queue=queue)
        self._served[proto] = served
        return served

    def inbox(self, name: str, handler: Handler, *, limit: int | None = None, queue: int | None = None) -> Served:
        """A handler with its queue that is served under no name: whoever makes it feeds it."""
        running = self.limits.running if limit is None else limit
        return Served(self, name, handler, running, self.limits.waiting if queue is None else queue)

    def withdraw(self, served: Served) -> None:
        """No longer serve; what has begun or waits is done."""
        if self._served.get(served.name) is served:
            del self._served[served.name]

    def spawn(self, coro: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """Start a task that ends with this network at the latest; one that fails is reported, with peer and name."""
        task = self.begin(coro, f"{self.peer_id[:8]} {name}")
        task.add_done_callback(self._ended)
        return task

    def begin(self, coro: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
        """``spawn`` for a coroutine that lets no failure out and, at its end, calls ``ended``."""
        if self._loop is None:
            coro.close()
            raise PeerUnreachable(f"{self.peer_id[:8]} is not running")
        task = self._loop.create_task(coro, name=name)
        self._tasks[task] = None
        return task

    def ended(self) -> None:
        """The task that runs was begun by ``begin``, and is at its end."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.pop(task, None)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            said = f"peer {self.peer_id[:8]}: task {task.get_name()[9:]!r} failed"
            task.get_loop().call_exception_handler({"message": said, "exception": error, "task": task})

    # who is there

    def introduce(self, peer: PeerId, addresses: Iterable[str] = ()) -> None:
        """Make a peer known, with addresses where the transport may find it."""
        if peer != self.peer_id:
            self._peers.setdefault(peer)
            if known := list(addresses):
                self.transport.add_hint(peer, known)

    def peers(self) -> list[PeerInfo]:
        """Peers that were introduced or heard and whose link is not lost, sorted by id."""
        return [PeerInfo(peer, self.transport.reach(peer)) for peer in sorted(self._peers)]

    def on_lost(self, handler: Callable[[PeerId], None]) -> None:
        """Who else hears that the last link to a peer is gone."""
        self._lost_handlers.append(handler)

    @property
    def stats(self) -> Counter[str]:
        """Counts since the start."""
        self._stats.update(
            {
                "frames": self._sent - self._stats["frames"],
                "bytes": self._sent_bytes - self._stats["bytes"],
                "frames heard": self._heard - self._stats["frames heard"],
                "bytes heard": self._heard_bytes - self._stats["bytes heard"],
            }
        )
        return self._stats

    # frames

    def _post(self, kind: int, ident: int, peer: PeerId, proto: str, ttl: int, body: bytes) -> None:
        frame = self._pack(kind, ident, peer, proto, ttl, body)
        if peer == self.peer_id:
            if self._loop is None:
                raise PeerUnreachable(f"{self.peer_id[:8]} is not running")
            self._loop.call_soon(self._hear, peer, frame)
            return
        self.transport.send(peer, frame)
        self._sent += 1
        self._sent_bytes += len(frame)

    def _hear(self, link: PeerId | None, frame: bytes) -> None:
        if self._loop is None:  # closing: the transport still has links
            return
        self._heard += 1
        self._heard_bytes += len(frame)
        try:
            src, signed, (kind, ident, _, _, proto, ttl, body) = self._frames.open(link, frame)
        except MessageError as error:
            self._stats[f"reject:{error}"] += 1
            return
        if src not in self._peers:
            self._peers[src] = None
        if kind >= RES:
            self._settle(kind, ident, src, body)
            return
        ctx = Context(src, proto, self.now() + ttl / 1000 if ttl else inf, signed, self, ident if kind == REQ else 0)
        served = self._served.get(proto) or self._built_in(proto)
        if served is None:
            self._stats["reject:no handler"] += 1
            self.refuse(ctx, ABSENT, f"no handler for {proto!r}")
            return
        try:
            served.take(ctx, body)
        except PeerBusy as error:
            self._stats["busy"] += 1
            self.refuse(ctx, BUSY, str(error))

    def _built_in(self, proto: str) -> Served | None:
        if proto in BUILT_IN:
            getattr(self, BUILT_IN[proto])
        return self._served.get(proto)

    def _settle(self, kind: int, ident: int, src: PeerId, body: bytes) -> None:
        """An answer: good only from the peer that was asked, once, while somebody waits for it."""
        peer, future = self._pending.get(ident, (None, None))
        if future is None or future.done():
            self._stats["late reply"] += 1
        elif peer != src:
            self._stats["reject:answer of another"] += 1
        elif kind == RES:
            future.set_result(body)
        else:
            future.set_exception(_told(src, body))

    def answer(self, ctx: Context, result: object) -> None:
        """Send a handler's result to whoever asked, if somebody did."""
        if not ctx.request:
            return
        if result is not None and not isinstance(result, bytes):
            raise TypeError(f"the handler of {ctx.proto!r} gave {type(result).__name__}: must be bytes or None")
        try:
            self._post(RES, ctx.request, ctx.src, "", 0, result or b"")
        except PeerUnreachable:
            self._stats["reply lost"] += 1

    def refuse(self, ctx: Context, code: int, text: str) -> None:
        """Tell whoever asked, if somebody did, why there is no answer."""
        if not ctx.request:
            return
        try:
            self._post(ERR, ctx.request, ctx.src, "", 0, _encode((code, text[:TEXT])))
        except PeerUnreachable:
            self._stats["reply lost"] += 1

    def fail(self, ctx: Context, error: Exception) -> None:
        """A handler raised: count it, tell whoever asked, show the first traceback of each protocol."""
        if isinstance(error, PeerBusy):
            self._stats["busy"] += 1
            self.refuse(ctx, BUSY, str(error))
            return
        self._stats[f"failed:{ctx.proto}"] += 1
        first = self._stats[f"failed:{ctx.proto}"] == 1 and not isinstance(error, HublessError)
        log.log(
            logging.ERROR if first else logging.DEBUG,
            "peer %s: the handler of %r failed on a message of %s",
            self.peer_id[:8],
            ctx.proto,
            ctx.src[:8],
            exc_info=error,
        )
        self.refuse(ctx, FAILED, f"{type(error).__name__}: {error}")

    def _expire(self, ident: int, seconds: float) -> None:
        peer, future = self._pending.get(ident, ("", None))
        if future is not None and not future.done():
            future.set_exception(RequestTimeout(f"{peer[:8]} did not answer in {seconds:g} s"))

    def _lost(self, peer: PeerId) -> None:
        if peer == self.peer_id:  # crashed, in a simulation
            self._end()
            return
        self._peers.pop(peer, None)
        for asked, future in self._pending.values():
            if asked == peer and not future.done():
                future.set_exception(PeerUnreachable(f"the link to {peer[:8]} was lost"))
        for handler in self._lost_handlers:
            handler(peer)


def _told(src: PeerId, body: bytes) -> NetworkError:
    """What an error that came as an answer says."""
    try:
        code, text = _error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        code, text = FAILED, "an error that cannot be read"
    return (PeerBusy if code == BUSY else RemoteError)(f"{src[:8]}: {text[:TEXT]}")
