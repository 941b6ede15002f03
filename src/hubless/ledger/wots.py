"""Winternitz one-time signatures (WOTS, w = 16): safe as long as the hash is, also against quantum computers.

A secret [67 x 32 bytes] is hashed 15 times to a public key. A signature shows, for each of the 64 hex digits of the
message's digest and 3 of their checksum, the chain hashed as often as the digit says; who checks goes the rest of the
way. A second signature with the same key would show chains at two places and let others sign: it is refused.
Source: Merkle, "A certified digital signature", 1989; RFC 8391, section 3.
"""

from __future__ import annotations

import hashlib

from hubless.errors import SignatureError

SUITE = "wots-sha256"
DIGITS, CHECKS, TOP, SIZE = 64, 3, 15, 32
CHAINS = DIGITS + CHECKS
SIGNATURE = CHAINS * SIZE


class WotsKey:
    """A key that signs once. ``author`` is its public name: the digest of all ends of its chains, in hex."""

    suite = SUITE

    def __init__(self, seed: bytes) -> None:
        self._starts = [_hash(b"secret", i, 0, seed) for i in range(CHAINS)]
        self.author = _public([_climb(start, i, 0, TOP) for i, start in enumerate(self._starts)])
        self.used = False

    def sign(self, data: bytes) -> bytes:
        """The signature [2144 bytes]. Raises SignatureError the second time."""
        if self.used:
            raise SignatureError(f"key {self.author[:8]}: signs once, and has signed")
        self.used = True
        return b"".join(
            _climb(start, i, 0, digit) for i, (start, digit) in enumerate(zip(self._starts, _digits(data), strict=True))
        )


def verify(author: str, data: bytes, signature: bytes) -> bool:
    """Whether the key named ``author`` signed ``data``."""
    if len(signature) != SIGNATURE:
        return False
    links = [signature[i * SIZE : (i + 1) * SIZE] for i in range(CHAINS)]
    ends = [_climb(link, i, digit, TOP) for i, (link, digit) in enumerate(zip(links, _digits(data), strict=True))]
    return _public(ends) == author


def _digits(data: bytes) -> list[int]:
    digest = hashlib.sha256(b"message" + data).digest()
    digits = [half for byte in digest for half in (byte >> 4, byte & 15)]
    lack = sum(TOP - digit for digit in digits)  # raising a digit lowers the checksum, which cannot be undone
    return [*digits, lack >> 8, lack >> 4 & 15, lack & 15]


def _climb(value: bytes, chain: int, low: int, high: int) -> bytes:
    for step in range(low, high):
        value = _hash(b"chain", chain, step, value)
    return value


def _hash(what: bytes, chain: int, step: int, value: bytes) -> bytes:
    return hashlib.sha256(what + bytes((chain, step)) + value).digest()


def _public(ends: list[bytes]) -> str:
    return hashlib.sha256(b"public" + b"".join(ends)).hexdigest()
