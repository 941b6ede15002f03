"""One connection to one peer: introduces itself, then carries frames both ways until each side has sent its last."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Protocol, cast

from hubless.errors import FrameTooLarge, IntegrityError, PeerUnreachable
from hubless.net.policy import Limits, Timeouts
from hubless.net.transports import tls
from hubless.net.transports.framing import PIECE, Incoming, Outgoing
from hubless.net.transports.transport import PeerId

KEY, PORT = 32, 2
WRITES = 4  # in one turn of the loop: other links have theirs before the next


class Refused(IntegrityError):
    """A peer that is not welcome; ``reason`` is what is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Introduction:
    """The first frame each way: who speaks, on which lane, and the port where it listens."""

    peer: PeerId
    lane: str
    port: int

    def encode(self) -> bytes:
        """32 bytes of key, 2 of port, the lane's name."""
        return bytes.fromhex(self.peer) + self.port.to_bytes(PORT, "big") + self.lane.encode("ascii")

    @classmethod
    def decode(cls, frame: bytes) -> Introduction:
        """Raises Refused."""
        lane = frame[KEY + PORT :].decode("ascii", "replace")
        if lane not in (tls.MAIN, tls.BULK):
            raise Refused("introduction", "not an introduction of this protocol")
        return cls(frame[:KEY].hex(), lane, int.from_bytes(frame[KEY : KEY + PORT], "big"))


LONGEST = len(Introduction("00" * KEY, tls.BULK, 0).encode())


class Owner(Protocol):
    """Whom a link tells what happens to it."""

    limits: Limits
    timeouts: Timeouts

    def made(self, link: Link) -> None:
        """It has a connection."""

    def introduced(self, link: Link, other: Introduction) -> Introduction:
        """Whether the other side is welcome, and as whom we answer. Raises Refused."""

    def established(self, link: Link, other: Introduction) -> None:
        """Both sides have introduced themselves."""

    def heard(self, peer: PeerId, frame: bytes) -> None:
        """A frame has come."""

    def ended(self, link: Link, reason: str | None) -> None:
        """Nothing can be sent here any more; the reason, if the other side broke a rule."""

    def lost(self, link: Link) -> None:
        """The connection is gone."""


class Link(asyncio.BufferedProtocol):
    """A connection. Where we dialled it, ``peer`` is whom we expect and ``own`` is what we say first.

    ready:   done when both sides have introduced themselves; PeerUnreachable if the connection goes before
    live:    whether frames can be sent: introduced, and neither side has sent its last
    refused: whether the other side broke a rule
    used:    when it last carried anything, on the loop's clock
    """

    def __init__(self, owner: Owner, secure: bool, peer: PeerId = "", own: Introduction | None = None) -> None:
        self.peer, self.lane = peer, own.lane if own else ""
        self.dialled = own is not None
        self.introduced = self.live = self.refused = False
        self.loop = asyncio.get_running_loop()
        self.used = self.loop.time()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._owner, self._secure, self._own = owner, secure, own
        self._proven: tuple[PeerId, str] | None = None
        self._transport: asyncio.Transport | None = None
        self._incoming = Incoming(self._introduce, LONGEST)
        self._outgoing = Outgoing()
        self._leaving = False
        self._turn = asyncio.Lock()  # who waits for room goes in order
        self._room = asyncio.Event()
        self._paused = False
        self._due = False
        self._sent = 0  # frames of this turn of the loop
        self._alone = True  # whether the last turn had only one
        self._pauses = 0
        self._before = (-1, 0, -1)

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection, its handshake done; whom that proves is read before any frame is."""
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's has no such base
        self._owner.made(self)
        transport.set_write_buffer_limits(high=2 * PIECE)
        _watch(transport.get_extra_info("socket"), self._owner.timeouts)
        try:
            if self._secure:
                self._proven = tls.proven(transport.get_extra_info("ssl_object"))
        except IntegrityError as error:
            self.drop("certificate", error)
            return
        if self._own is not None:
            self._outgoing.add(self._own.encode())
            self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive."""
        return self._incoming.room()

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        self.used = self.loop.time()
        try:
            if self._incoming.filled(nbytes):
                self._incoming.open = False
                self.leave()
        except FrameTooLarge as error:
            self.drop("oversize", error)
        except Refused as error:
            self.drop(error.reason, error)

    def pause_writing(self) -> None:
        """The other side takes no more for now."""
        self._paused = True
        self._pauses += 1

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self._flush()

    def eof_received(self) -> None:
        """The other side has closed; asyncio closes this one."""

    def connection_lost(self, error: Exception | None) -> None:
        """Gone, for whatever reason."""
        self._end(None, error)
        self._transport = None
        self._owner.lost(self)

    # what its owner calls

    @property
    def waiting(self) -> int:
        """Bytes that asyncio has not been given."""
        return self._outgoing.size

    def address(self, side: str) -> str:
        """The host of one side: ``peername`` or ``sockname``."""
        return str(self._transport.get_extra_info(side)[0]) if self._transport is not None else ""

    def send(self, frame: bytes) -> None:
        """Write at once; from the second frame in one turn of the loop on, join them, and write when it is over.

        After a turn with several frames the next one joins from its first.
        """
        self._outgoing.add(frame)
        self._sent += 1
        if not self._due:
            self._at_the_turn()
            if self._alone:
                self._flush()

    async def room(self) -> bool:
        """Wait until no more than ``limits.buffer`` bytes wait; False: the link has ended.

        One at a time: if all who wait were woken at once, all would send.
        """
        if self._backlog() > self._owner.limits.buffer or self._turn.locked():
            async with self._turn:
                while self.live and self._backlog() > self._owner.limits.buffer:
                    self._room.clear()
                    await self._room.wait()
        return self.live

    def leave(self) -> None:
        """Send what waits, and then no more. The other side does the same, so no frame is lost."""
        if not self._leaving and self._transport is not None:
            self._leaving = True
            self._outgoing.add_last()
            self._end(None, None)
            self.loop.call_later(self._owner.timeouts.close, self.drop)
        self._flush()

    def close(self) -> None:
        """Close now; what asyncio takes is still sent."""
        self._incoming.open = False
        self._flush()
        self._end(None, None)
        if self._transport is not None:
            self._transport.close()

    def drop(self, reason: str | None = None, error: Exception | None = None) -> None:
        """Break the connection; a reason is counted."""
        self.refused = self.refused or reason is not None
        self._incoming.open = False
        self._end(reason, error)
        if self._transport is not None:
            self._transport.abort()

    def stalled(self) -> bool:
        """Whether, since this was last asked, neither the frame that has begun nor what is to be sent got on."""
        incoming = self._incoming
        frames, held, pauses = self._before
        self._before = incoming.frames, incoming.held, self._pauses if self._paused else -1
        came = incoming.held - held
        slow = held > 0 and incoming.frames == frames and came < min(self._owner.limits.bulk, incoming.missing + came)
        return slow or (self._paused and pauses == self._pauses)

    # inside

    def _introduce(self, frame: bytes) -> None:
        """The first frame."""
        other = Introduction.decode(frame)
        if self._proven is not None and self._proven != (other.peer, other.lane):
            raise Refused("introduction", f"peer {self._proven[0][:8]}: introduces itself as {other.peer[:8]}")
        if self._own is not None and (self.peer, self.lane) != (other.peer, other.lane):
            raise Refused("wrong peer", f"peer {self.peer[:8]}: {other.peer[:8]} is at its address")
        answer = self._owner.introduced(self, other)
        if self._own is None:
            self._outgoing.add(answer.encode())
            self._flush()
        self.peer, self.lane = other.peer, other.lane
        self._incoming.limit = self._owner.limits.frame
        self._incoming.heard = self._deliver
        self.introduced = self.live = True
        if not self.ready.done():
            self.ready.set_result(None)
        self._owner.established(self, other)

    def _deliver(self, frame: bytes) -> None:
        self._owner.heard(self.peer, frame)

    def _backlog(self) -> int:
        """Bytes that are not yet the operating system's."""
        return self._outgoing.size + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def _at_the_turn(self) -> None:
        if not self._due:
            self._due = True
            self.loop.call_soon(self._turned)

    def _turned(self) -> None:
        """A turn of the loop is over."""
        self._alone = self._sent <= 1
        self._sent = 0
        self._due = False
        self._flush()

    def _flush(self) -> None:
        """Write what the other side takes, the rest in the next turn; close when each side has sent its last."""
        outgoing, transport = self._outgoing, self._transport
        if transport is None or transport.is_closing():
            return
        if outgoing.size:
            self.used = self.loop.time()
            for _ in range(WRITES):
                if self._paused or not outgoing.size:
                    break
                transport.write(outgoing.take())
            else:
                self._at_the_turn()
        if not self._room.is_set() and self._backlog() <= self._owner.limits.buffer:
            self._room.set()
        if self._leaving and not self._incoming.open and not outgoing.size:
            transport.close()

    def _end(self, reason: str | None, error: Exception | None) -> None:
        """No frame can be sent from here on."""
        if not self.ready.done():
            why = error or reason or "refused, or the connection was lost"
            self.ready.set_exception(PeerUnreachable(f"peer {self.peer[:8] or '?'}: {why}"))
        if not self.ready.cancelled():
            self.ready.exception()  # seen, also where nobody waits
        if self.live or reason:
            self.live = False
            self._room.set()
            self._owner.ended(self, reason)


def _watch(connection: socket.socket | None, timeouts: Timeouts) -> None:
    """Let the operating system notice a host that vanished without a word."""
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds = max(1, round(timeouts.stall))
    for name, value in (("TCP_KEEPIDLE", seconds), ("TCP_KEEPINTVL", max(1, seconds // 4)), ("TCP_KEEPCNT", 4),
                        ("TCP_USER_TIMEOUT", 1000 * seconds)):  # fmt: skip
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
