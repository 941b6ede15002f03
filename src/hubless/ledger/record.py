"""A record: what an author says, signed, under the digest of what it says."""

from __future__ import annotations

import msgspec

from hubless.errors import LedgerError, SignatureError
from hubless.ledger import signing
from hubless.ledger.signing import Signer
from hubless.ledger.suites import RECORD, Hasher


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What an author says.

    author:    public key, as the signature suite writes it
    kind:      class of record, by which a policy routes it
    body:      any bytes
    time:      author's clock, unix seconds
    spends:    what only one record may use up (a coin, a vote, a seat); empty for nothing
    suite:     signature suite
    signature: over all of the above
    """

    author: str
    kind: str
    body: bytes
    time: float
    spends: bytes = b""
    suite: str = signing.ED25519
    signature: bytes = b""

    def said(self) -> bytes:
        """What is signed and what the id is the digest of."""
        return _encode((self.author, self.kind, self.body, self.time, self.spends, self.suite))

    def encode(self) -> bytes:
        """The record as bytes."""
        return _encode(self)

    def id(self, hasher: Hasher) -> bytes:
        """The digest [32] by which everybody knows it; the signature is not in it."""
        return hasher(RECORD, self.said())

    def check(self) -> None:
        """Raises SignatureError when the author did not sign it."""
        if not signing.holds(self.suite, self.author, self.said(), self.signature):
            raise SignatureError(f"record of {self.author[:8]}, kind {self.kind!r}: not signed by its author")


def write(signer: Signer, kind: str, body: bytes, time: float, spends: bytes = b"") -> Record:
    """A signed record."""
    record = Record(signer.author, kind, body, time, spends, signer.suite)
    return msgspec.structs.replace(record, signature=signer.sign(record.said()))


def decode(data: bytes) -> Record:
    """The record of these bytes. Raises LedgerError when they are none."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"{len(data)} bytes are no record: {error}") from None


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Record)
