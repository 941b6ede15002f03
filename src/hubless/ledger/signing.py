"""Signature suites by name: an author is a key of one suite, and the record says of which."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from hubless.errors import SignatureError
from hubless.ledger import wots
from hubless.net import identity
from hubless.net.identity import Identity

PURPOSE = b"hubless/1/ledger"
ED25519 = "ed25519"
SUITES = (ED25519, wots.SUITE)


class Signer(Protocol):
    """Who signs records: a peer's identity (``PeerKey``) or a one-time key (``wots.WotsKey``)."""

    @property
    def suite(self) -> str:
        """Name of the signature suite."""

    @property
    def author(self) -> str:
        """The public key, as the suite writes it."""

    def sign(self, data: bytes) -> bytes:
        """A signature of ``data``. Raises SignatureError for a key that is used up."""


class PeerKey:
    """The Ed25519 identity of a peer as a signer; the author is its peer id."""

    suite = ED25519

    def __init__(self, key: Identity) -> None:
        self.key = key
        self.author = key.peer_id

    def sign(self, data: bytes) -> bytes:
        """A signature [64 bytes]."""
        return self.key.sign(PURPOSE, data)


def holds(suite: str, author: str, data: bytes, signature: bytes) -> bool:
    """Whether ``author`` signed ``data``. Raises SignatureError for an unknown suite."""
    if suite == ED25519:
        return identity.verify(author, PURPOSE, data, signature)
    if suite == wots.SUITE:
        return _once(author, data, signature)
    raise SignatureError(f"signature suite {suite!r}: unknown; known: {', '.join(SUITES)}")


@lru_cache(maxsize=4096)
def _once(author: str, data: bytes, signature: bytes) -> bool:
    return wots.verify(author, data, signature)
