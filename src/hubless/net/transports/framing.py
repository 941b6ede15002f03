"""Frames in a stream of bytes: four bytes of length, then the frame. No socket, no clock."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from io import BytesIO

from hubless.errors import FrameTooLarge
from hubless.net.policy import KIB

LENGTH = struct.Struct(">I")
LAST = 0xFFFFFFFF  # in place of a length: the sender sends no more here
ROOM = 256 * KIB  # what one read may bring; a larger frame is put together from several
PIECE = 128 * KIB  # what one write takes: small frames are joined up to it, large ones cut


class Incoming:
    """Bytes as they arrive, frames as they were sent; more than ``limit`` bytes for a frame is FrameTooLarge.

    heard:  who is told of whole frames
    frames: whole ones so far
    held:   bytes of the frame that has begun, with its length
    """

    __slots__ = ("_large", "_room", "_size", "_view", "frames", "heard", "held", "limit", "open")

    def __init__(self, heard: Callable[[bytes], None], limit: int) -> None:
        self.heard = heard
        self._room = bytearray(ROOM)
        self._view = memoryview(self._room)
        self._large: BytesIO | None = None  # whose bytes are the frame, without another copy
        self._size = 0
        self.limit = limit
        self.frames = self.held = 0
        self.open = True

    @property
    def missing(self) -> int:
        """Bytes that the frame that has begun still lacks; at least one while its length is not known."""
        if self._large is not None:
            return self._size + LENGTH.size - self.held
        if self.held < LENGTH.size:
            return 1
        return int(LENGTH.unpack_from(self._room)[0]) + LENGTH.size - self.held

    def room(self) -> memoryview:
        """Where the next bytes go."""
        if self._large is not None:
            return self._view[: self.missing]
        return self._view[self.held :]

    def filled(self, count: int) -> bool:
        """So many bytes have come. Tells whole frames one by one while ``open``; True: the last one has been sent."""
        self.held += count
        if self._large is not None:
            self._large.write(self._view[:count])
            if self.missing == 0:
                frame, self._large, self.held = self._large.getvalue(), None, 0
                self.frames += 1
                self.heard(frame)
            return False
        begin, end = 0, self.held
        while self.open and end - begin >= 4:
            size = LENGTH.unpack_from(self._room, begin)[0]
            begin += 4
            if size > self.limit:
                if size == LAST:
                    return True
                raise FrameTooLarge(f"a frame of {size:,} bytes: at most {self.limit:,}")
            if begin + size > end:
                begin -= 4
                self._keep(size, begin, end)
                return False
            self.frames += 1
            self.heard(bytes(self._view[begin : begin + size]))
            begin += size
        self._keep(0, begin, end)
        return False

    def _keep(self, size: int, begin: int, end: int) -> None:
        """The start of a frame of ``size`` bytes: in front, or where it will be whole.

        That grows with what comes: naming a length costs us nothing.
        """
        self.held = end - begin
        if size + LENGTH.size > ROOM:
            self._large, self._size = BytesIO(), size
            self._large.write(self._view[begin + LENGTH.size : end])
        elif begin and self.held:
            self._room[: self.held] = self._room[begin:end]


class Outgoing:
    """Frames that wait to be written; ``size`` is their bytes with lengths."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: deque[bytes | memoryview] = deque()
        self.size = 0

    def add(self, frame: bytes) -> None:
        """Another frame."""
        self._parts.append(LENGTH.pack(len(frame)))
        self._parts.append(frame)
        self.size += LENGTH.size + len(frame)

    def add_last(self) -> None:
        """The word that nothing follows."""
        self._parts.append(LENGTH.pack(LAST))
        self.size += LENGTH.size

    def take(self) -> bytes | memoryview:
        """What to write next: as many frames as fit into one write, or a piece of a large one."""
        parts = self._parts
        if self.size <= PIECE:
            data: bytes | memoryview = b"".join(parts)
            parts.clear()
        elif len(parts[0]) > PIECE:
            whole = memoryview(parts[0])
            data, parts[0] = whole[:PIECE], whole[PIECE:]
        else:
            few, size = [], 0
            while parts and size + len(parts[0]) <= PIECE:
                few.append(parts.popleft())
                size += len(few[-1])
            data = b"".join(few)
        self.size -= len(data)
        return data
