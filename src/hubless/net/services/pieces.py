"""Blobs cut into pieces that are named by their hashes, and what a peer keeps of them."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from hubless.errors import ConfigError, IntegrityError
from hubless.net.policy import Limits
from hubless.net.services import UNREADABLE

HASH = 32
PIECE, HAVE = "hub/blob", "hub/have"  # what peers ask each other: a piece by its name, which pieces of a blob
Digest = Annotated[bytes, msgspec.Meta(min_length=HASH, max_length=HASH)]


class Manifest(msgspec.Struct, array_like=True, frozen=True):
    """What a blob consists of: ``size`` bytes in pieces of ``chunk`` bytes, the last may be shorter.

    The id of a blob (cid) is the hash of its manifest's bytes.
    """

    size: int
    chunk: int
    hashes: list[Digest]

    def length(self, index: int) -> int:
        """Bytes of a piece."""
        return min(self.chunk, self.size - index * self.chunk)


_manifest = msgspec.msgpack.Decoder(Manifest)


def digest(data: bytes) -> bytes:
    """The name of a piece."""
    return hashlib.sha256(data).digest()


def cut(data: bytes, chunk: int) -> tuple[bytes, list[bytes]]:
    """The bytes of the manifest of a blob, and its pieces."""
    pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    return msgspec.msgpack.encode(Manifest(len(data), chunk, [digest(piece) for piece in pieces])), pieces


def read_manifest(raw: bytes, limits: Limits) -> Manifest:
    """A manifest of its bytes. Raises IntegrityError when they are none, or of a blob that is too large."""
    try:
        manifest = _manifest.decode(raw)
    except UNREADABLE as error:
        raise IntegrityError(f"not a manifest: {error}") from None
    if not 0 < manifest.chunk <= limits.chunk or not 0 <= manifest.size <= limits.blob:
        raise IntegrityError(
            f"a blob of {manifest.size} bytes in pieces of {manifest.chunk}: at most {limits.blob} in {limits.chunk}"
        )
    if len(manifest.hashes) != -(-manifest.size // manifest.chunk):
        raise IntegrityError(f"a manifest of {len(manifest.hashes)} pieces for {manifest.size} bytes")
    return manifest


@dataclass
class _Held:
    size: int
    data: bytes | None  # None: in the folder
    own: bool


class Pieces:
    """Pieces by name, in memory or in a folder, of at most ``quota`` bytes.

    When there is no room, those that were fetched and not used for longest go; own ones never do.
    """

    def __init__(self, quota: int, folder: Path | None = None) -> None:
        if quota <= 0:
            raise ConfigError(f"blobs.quota = {quota}: must be positive")
        self.quota = quota
        self.folder = folder
        self.used = self.own = 0  # bytes
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.iterdir()):
                if len(path.name) == 2 * HASH and not path.name.strip("0123456789abcdef"):
                    self._enter(bytes.fromhex(path.name), _Held(path.stat().st_size, None, own=False))
            self._room(0)

    def __contains__(self, name: bytes) -> bool:
        return name in self._held

    def __len__(self) -> int:
        return len(self._held)

    def put(self, data: bytes, *, own: bool = False) -> bytes | None:
        """Keep a piece; its name, or None when there is no room for it."""
        name = digest(data)
        if held := self._held.get(name):
            self.own += held.size if own and not held.own else 0
            held.own |= own
            self._held.move_to_end(name)
            return name
        if not self._room(len(data)):
            return None
        if self.folder is not None:
            path = self.folder / name.hex()
            half = path.with_suffix(".part")
            half.write_bytes(data)
            os.replace(half, path)  # a piece is whole or not there
        self._enter(name, _Held(len(data), None if self.folder else data, own))
        return name

    def get(self, name: bytes) -> bytes | None:
        """The piece, if it is kept; a file that was changed is dropped."""
        held = self._held.get(name)
        if held is None:
            return None
        self._held.move_to_end(name)
        if self.folder is None:
            return held.data
        path = self.folder / name.hex()
        data = path.read_bytes() if path.is_file() else b""
        if digest(data) != name:
            self._drop(name)
            return None
        return data

    def _enter(self, name: bytes, held: _Held) -> None:
        self._held[name] = held
        self.used += held.size
        self.own += held.size if held.own else 0

    def _drop(self, name: bytes) -> None:
        held = self._held.pop(name)
        self.used -= held.size
        self.own -= held.size if held.own else 0
        if self.folder is not None:
            (self.folder / name.hex()).unlink(missing_ok=True)

    def _room(self, more: int) -> bool:
        """Make room for ``more`` bytes, if that can be done."""
        if self.own + more > self.quota:
            return False
        while self.used + more > self.quota:
            self._drop(next(name for name, held in self._held.items() if not held.own))
        return True
