"""A document on disk: a log that only grows and now and then becomes a snapshot; whole after ``kill -9`` at any moment.

    file   = MAGIC, frame of [doc, actor], frames
    frame  = length [4 bytes], CRC-32 of length and record [4 bytes], record
    record = msgpack list of one operation, or of the two that are evidence; an operation is [bytes, signature]

What is written is in the hands of the operating system before it counts, and on disk before another replica can have
it. So a crash of the process loses nothing, and one of the machine at most what nobody has seen: an actor never signs
a second operation under one seq. A log that ends within a frame is cut there; the snapshot is replaced as a whole.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from hubless.errors import CheckpointError, CodecError, ConfigError, IntegrityError
from hubless.net.crdt.chain import Op, Signed
from hubless.net.crdt.values import wire
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

if sys.platform != "win32":  # there nothing keeps a second process out
    import fcntl

MAGIC = b"hubless crdt 1\n"
HEAD = struct.Struct(">II")
_decode = msgspec.msgpack.Decoder(Annotated[list[Signed], msgspec.Meta(min_length=1, max_length=2)]).decode
_title = msgspec.msgpack.Decoder(tuple[str, str]).decode


def frame(record: bytes) -> bytes:
    """A record as it lies in a file."""
    length = len(record).to_bytes(4, "big")
    return HEAD.pack(len(record), zlib.crc32(record, zlib.crc32(length))) + record


def frames(data: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """The records from ``at`` on, each with where it ends, up to the first that is not whole."""
    while (end := _end(data, at)) is not None:
        yield data[at + HEAD.size : end], end
        at = end


def written(doc: str, actor: PeerId, kept: Iterable[tuple[Op, ...]]) -> bytes:
    """A whole file."""
    records = (frame(wire([op.pair() for op in ops])) for ops in kept)
    return b"".join([title(doc, actor), *records])


def title(doc: str, actor: PeerId) -> bytes:
    """How a file begins."""
    return MAGIC + frame(wire([doc, actor]))


def whole(data: bytes, doc: str) -> list[tuple[Op, ...]]:
    """The records of a snapshot; signatures are not looked at. Raises IntegrityError for what is not a whole one."""
    records = list(frames(data, len(MAGIC))) if data.startswith(MAGIC) else []
    try:
        if not records or records[-1][1] != len(data):
            raise IntegrityError("a snapshot that is not whole")
        found = _title(records[0][0])[0]
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise IntegrityError(f"a snapshot that does not decode: {error}") from None
    if found != doc:
        raise IntegrityError(f"a snapshot of {found!r}, not of {doc!r}")
    return [_ops(record) for record, _ in records[1:]]


def _ops(record: bytes) -> tuple[Op, ...]:
    try:
        return tuple(Op.read(body, signature) for body, signature in _decode(record))
    except (msgspec.MsgspecError, UnicodeError, CodecError) as error:
        raise IntegrityError(f"a record that does not decode: {error}") from None


def _end(data: bytes, at: int) -> int | None:
    if at + HEAD.size > len(data):
        return None
    length, check = HEAD.unpack_from(data, at)
    end = at + HEAD.size + length
    if length == 0 or end > len(data):
        return None
    record = memoryview(data)[at + HEAD.size : end]
    return end if zlib.crc32(record, zlib.crc32(data[at : at + 4])) == check else None


class Journal:
    """The folder of one replica: ``log`` and ``snapshot``.

    sync:  "sent" has one's own operations on disk before another replica can get them, many at a time;
           "always" has each on disk before the call that made it returns
    limit: bytes of log beyond those of the snapshot from which a new snapshot is due

    Raises ConfigError for a folder of another document or actor, or one that a process uses; CheckpointError for files
    that are damaged in a way that no crash leaves.
    """

    def __init__(
        self, folder: str | Path, doc: str, actor: PeerId, sync: str = "sent", limit: int = LIMITS.journal
    ) -> None:
        if sync not in ("sent", "always"):
            raise ConfigError(f"sync = {sync!r}: must be 'sent' or 'always'")
        self.folder = Path(folder)
        self.doc, self.actor, self.sync, self.limit = doc, actor, sync, limit
        self.cut = 0  # bytes of a torn record that were cut off
        self._title = title(doc, actor)
        self._log = self.folder / "log"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600)
        except OSError as error:
            raise ConfigError(f"folder = {folder}: {error.strerror or error}") from None
        try:
            self._lock()
            self._stored = self._read()
        except BaseException:
            self.close()
            raise
        self._dirty = False

    def read(self) -> list[tuple[Op, ...]]:
        """All that was kept, in an order in which it can be taken; to be asked for once."""
        stored, self._stored = self._stored, []
        return stored

    def keep(self, ops: tuple[Op, ...]) -> None:
        """Append an operation, or two as evidence. Raises OSError, and then nothing was kept."""
        data = frame(wire([op.pair() for op in ops]))
        try:
            self._write(self._file, data)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        if len(ops) == 1 and ops[0].actor == self.actor:
            self._dirty = True
            if self.sync == "always":
                self.flush()

    @property
    def dirty(self) -> bool:
        """Whether own operations may not be on disk yet."""
        return self._dirty

    def flush(self) -> None:
        """Have on disk what was appended."""
        if self._file < 0:
            return
        self._dirty = False  # before: what is appended meanwhile makes it true again
        try:
            os.fsync(self._file)
        except OSError:
            self._dirty = True
            raise

    def due(self) -> bool:
        """Whether the log has become long."""
        return self._size > self._snapshot_size + self.limit

    def snapshot(self, data: bytes) -> None:
        """Replace the snapshot and empty the log. A crash before, between or after leaves all operations readable."""
        new = self.folder / "snapshot.new"
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
        try:
            self._write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(self.folder / "snapshot")
        self._sync_folder()
        self._snapshot_size = len(data)
        os.ftruncate(self._file, len(self._title))
        self._size = len(self._title)
        self.flush()

    def close(self) -> None:
        """Have all on disk, and let others open the folder."""
        file, self._file = self._file, -1
        if file >= 0:
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"folder = {self.folder}: a process uses it; two would tell two stories") from None

    def _read(self) -> list[tuple[Op, ...]]:
        path = self.folder / "snapshot"
        snapshot, data = path.read_bytes() if path.exists() else b"", self._log.read_bytes()
        self._snapshot_size = len(snapshot)
        stored: list[tuple[Op, ...]] = []
        try:
            if snapshot:
                self._own(snapshot)
                stored = whole(snapshot, self.doc)
            if len(data) < len(self._title) and self._title.startswith(data):  # new, or killed when it was
                self._begin()
                self.cut = len(data)
                return stored
            self._own(data)
            self._size = len(self._title)
            for record, end in frames(data, self._size):
                stored.append(_ops(record))
                self._size = end
        except IntegrityError as error:
            raise CheckpointError(f"{self.folder}: {error}") from None
        self.cut = len(data) - self._size
        if self.cut:
            if any(_end(data, at) for at in range(self._size + 1, len(data))):
                raise CheckpointError(f"{self._log}: damaged at byte {self._size}, and not at its end")
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
        return stored

    def _begin(self) -> None:
        os.ftruncate(self._file, 0)
        self._write(self._file, self._title)
        os.fsync(self._file)
        self._sync_folder()
        self._size = len(self._title)

    def _own(self, data: bytes) -> None:
        """Raise unless a file begins as one of this document and actor."""
        if data.startswith(self._title):
            return
        first = next(frames(data, len(MAGIC)), None) if data.startswith(MAGIC) else None
        if first is None:
            raise CheckpointError(f"{self.folder}: its files do not begin as those of a document")
        try:
            doc, actor = _title(first[0])
        except (msgspec.MsgspecError, UnicodeError):
            raise CheckpointError(f"{self.folder}: its files do not begin as those of a document") from None
        raise ConfigError(f"folder = {self.folder}: holds {doc!r} of {actor[:8]}, not {self.doc!r} of {self.actor[:8]}")

    def _sync_folder(self) -> None:
        if os.name == "posix":
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @staticmethod
    def _write(file: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
