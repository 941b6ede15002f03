"""Hash functions by name, so that a ledger can change to another: every id and every proof says which it used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

from hubless.errors import SignatureError

DIGEST = 32
HASHES: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha3-256": lambda data: hashlib.sha3_256(data).digest(),
    "blake2b-256": lambda data: hashlib.blake2b(data, digest_size=DIGEST).digest(),
}

# what a digest is of: one letter before all that is hashed, so that no digest of one kind passes as another
RECORD, META, NODE, BLOCK, TRANSACTION, EVENT, VERSION, EMPTY = b"R", b"M", b"N", b"B", b"T", b"E", b"V", b"0"


class Hasher:
    """A hash function with domain separation that counts how often it was used, under ``hashes``."""

    def __init__(self, suite: str = "sha256", work: Counter[str] | None = None) -> None:
        if suite not in HASHES:
            raise SignatureError(f"hash suite {suite!r}: unknown; known: {', '.join(HASHES)}")
        self.suite = suite
        self.work: Counter[str] = Counter() if work is None else work
        self._hash = HASHES[suite]

    def __call__(self, tag: bytes, *parts: bytes) -> bytes:
        """The digest [32] of the parts, joined, as what ``tag`` says."""
        self.work["hashes"] += 1
        return self._hash(b"".join((tag, *parts)))
