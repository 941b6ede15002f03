"""Agents: named sets of handlers on a network. An agent's inbox is the queue of ``serve``; its address ``name@peer``.

Three ways to say something: ``tell`` (at most once, no answer), ``ask`` (the answer, after the work) and ``hand`` (who
accepted, before the work). In a pipeline use ``hand``: with ``ask`` each hop would wait for all later ones, hold its
place meanwhile, and a dead peer would take the whole chain with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from hubless.errors import ConfigError, MessageError, NetworkError, PeerBusy, PeerUnreachable, RemoteError
from hubless.net.envelope import Name

if TYPE_CHECKING:
    import asyncio

    from hubless.net.network import Network
    from hubless.net.serving import Context
    from hubless.net.transports.transport import PeerId

PAUSE, LONGEST = 0.005, 0.5  # seconds after the first full turn in which nobody accepted, and at most
HANDED = b"\xc3"  # msgpack: true


@dataclass(frozen=True)
class Message:
    """What an agent was told, asked or handed.

    kind:     which handler it is for
    body:     a value of msgpack: None, bool, int, float, str, bytes, lists and dicts of them
    src:      address of the agent that says it; the peer in it is proven, the name is what that peer says
    deadline: Unix seconds after which nobody waits for an answer; ``inf`` when nobody waits at all
    """

    kind: str
    body: Any
    src: str
    deadline: float


Handling = Callable[[Any, Message], Any]
Method = TypeVar("Method", bound=Handling)


class _Letter(msgspec.Struct, array_like=True):
    kind: Name
    name: Name  # of the agent that says it
    body: msgspec.Raw


_letter = msgspec.msgpack.Decoder(_Letter).decode
_value = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode


def on(kind: str) -> Callable[[Method], Method]:
    """Mark a method as the handler of messages of ``kind``; it takes a Message and returns a value or None."""

    def mark(method: Method) -> Method:
        method.__dict__["handles"] = kind
        return method

    return mark


class Agent:
    """Handlers by kind, ``limit`` of them at work, ``queue`` messages waiting; whoever comes then is told PeerBusy.

    ``limit=1`` makes a strict actor: one message after another. One that asks in a circle waits for itself until the
    timeout: raise ``limit``. Subclass it, or give handlers to ``handle``.
    """

    kinds: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        found = {name: getattr(value, "handles", None) for name, value in vars(cls).items()}
        cls.kinds = cls.kinds | {kind: name for name, kind in found.items() if kind is not None}

    def __init__(self, net: Network, name: str, *, limit: int = 64, queue: int = 256) -> None:
        if "@" in name or not name:
            raise ConfigError(f"agent.name = {name!r}: must not be empty or hold '@'")
        self.net = net
        self.name = name
        self.address = f"{name}@{net.peer_id}"
        self._handlers: dict[str, Callable[[Message], Any]] = {}
        for kind, method in self.kinds.items():
            self.handle(kind, getattr(self, method))
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._inbox = net.serve(f"agent/{name}", self._work, limit=limit, queue=queue)
        self._door = net.serve(f"hand/{name}", self._accept)

    def handle(self, kind: str, handler: Callable[[Message], Any]) -> None:
        """Add a handler, plain or async. Raises ConfigError for a kind that has one."""
        if kind in self._handlers:
            raise ConfigError(f"agent {self.name}: {kind!r} has a handler")
        self._handlers[kind] = handler

    # saying

    def tell(self, to: str, kind: str, body: Any = None) -> None:
        """Say it at most once, now or never. Raises PeerUnreachable, FrameTooLarge."""
        name, peer = split(to)
        self.net.send(peer, f"agent/{name}", self._letter(kind, body))

    async def ask(self, to: str, kind: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """What the other's handler returns. Raises what ``Network.request`` raises."""
        name, peer = split(to)
        answer = await self.net.request(peer, f"agent/{name}", self._letter(kind, body), timeout)
        try:
            return _value(answer) if answer else None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise RemoteError(f"{peer[:8]}: an answer that is no value") from None

    async def hand(
        self,
        to: str | list[str],
        kind: str,
        body: Any = None,
        *,
        timeout: float | None = None,
        patience: float = 30.0,
    ) -> str:
        """Give it to the first of ``to`` that takes it into its inbox; the address of whoever did.

        A full inbox answers busy, a dead peer not at all in ``timeout`` seconds: then the next is tried. After a full
        turn it waits, longer each time, and begins again until ``patience`` seconds have passed. The caller waits
        meanwhile and so takes no more itself: that is the back-pressure. One whose answer was lost has accepted, too:
        a row may be handed twice, and whoever must not do it twice knows it by a name in the body.
        Raises the error of the last that was tried.
        """
        targets = [split(one) for one in ([to] if isinstance(to, str) else to)]
        if not targets:
            raise ConfigError("agent.hand: nobody to hand to")
        letter = self._letter(kind, body)
        end = self.net.now() + patience
        pause = PAUSE
        while True:
            for name, peer in targets:
                try:
                    await self.net.request(peer, f"hand/{name}", letter, timeout)
                except (PeerBusy, PeerUnreachable, RemoteError) as error:
                    last: NetworkError = error
                else:
                    return f"{name}@{peer}"
            wait = pause * (0.5 + self.net.rng.random())
            if self.net.now() + wait > end:
                raise last
            await self.net.sleep(wait)
            pause = min(2 * pause, LONGEST)

    def every(self, seconds: float, work: Callable[[], Awaitable[None] | None]) -> None:
        """Call ``work`` each so many seconds until ``stop``; what it raises is reported as ``Network.spawn`` does."""
        if not seconds > 0:
            raise ConfigError(f"agent.every = {seconds}: must be positive")
        task = self.net.spawn(self._every(seconds, work), f"{self.name} every {seconds:g} s")
        self._tasks[task] = None

    async def stop(self) -> None:
        """Accept nothing more, finish what is in the inbox, for ``Timeouts.close`` seconds at most."""
        self.net.withdraw(self._door)
        self.net.withdraw(self._inbox)
        for task in self._tasks:
            task.cancel()
        end = self.net.now() + self.net.timeouts.close
        while self._inbox.running and self.net.now() < end:
            await self.net.sleep(PAUSE)
        self._inbox.waiting.clear()

    # hearing

    def _letter(self, kind: str, body: Any) -> bytes:
        try:
            return _encode((kind, self.name, body))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(f"agent {self.name}: a body of {kind!r} that msgpack cannot hold: {error}") from None

    def _accept(self, ctx: Context, body: bytes) -> bytes:
        """Take a row that is handed over into the inbox; raises PeerBusy when that is full."""
        self._kind(body)
        self._inbox.take(msgspec.structs.replace(ctx, request=0, deadline=inf), body)
        return HANDED

    async def _work(self, ctx: Context, body: bytes) -> bytes | None:
        letter = self._kind(body)
        message = Message(letter.kind, _value(letter.body), f"{letter.name}@{ctx.src}", ctx.deadline)
        result = self._handlers[letter.kind](message)
        if inspect.isawaitable(result):
            result = await result
        return None if result is None else _encode(result)

    def _kind(self, body: bytes) -> _Letter:
        """A letter for one of the handlers. Raises MessageError."""
        try:
            letter = _letter(body)
        except (msgspec.MsgspecError, ValueError):
            raise MessageError("not a letter") from None
        if letter.kind not in self._handlers:
            raise MessageError(f"agent {self.name} has no handler for {letter.kind!r}")
        return letter

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None] | None]) -> None:
        due = self.net.now()
        while True:
            due = max(due + seconds, self.net.now())  # a slow turn is not made up for
            await self.net.sleep(due - self.net.now())
            result = work()
            if result is not None:
                await result


def split(address: str) -> tuple[str, PeerId]:
    """Name and peer of ``name@peer``. Raises ConfigError."""
    name, at, peer = address.partition("@")
    if not (name and at and peer):
        raise ConfigError(f"address = {address!r}: must be name@peer")
    return name, peer
