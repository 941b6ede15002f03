"""Ids and records as other platforms write them: one table of spellings, each read back to the same digest.

address  hub:ENGINE:SUITE:HEX         says where and by which hash
hex      0xHEX                        as on Ethereum
cid      b + base32                   CIDv1, raw data, sha2-256 (IPFS); other suites have no code here
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass

from hubless.errors import LedgerError
from hubless.ledger.record import Record
from hubless.ledger.store import OFFERS
from hubless.ledger.suites import DIGEST, HASHES

CID = bytes((1, 0x55, 0x12, DIGEST))  # version 1, raw, sha2-256, length: github.com/multiformats/cid


@dataclass(frozen=True)
class Address:
    """A record's id with the engine that has it and the hash suite that made it."""

    engine: str
    suite: str
    digest: bytes

    def __post_init__(self) -> None:
        if self.engine not in OFFERS or self.suite not in HASHES or len(self.digest) != DIGEST:
            raise LedgerError(f"address {self.engine}:{self.suite}: no such engine or suite, or not {DIGEST} bytes")


def _to_cid(address: Address) -> str:
    if address.suite != "sha256":
        raise LedgerError(f"cid: only of sha256, not of {address.suite}")
    return "b" + base64.b32encode(CID + address.digest).decode().lower().rstrip("=")


def _from_cid(text: str) -> Address:
    raw = base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8))
    if not text.startswith("b") or raw[: len(CID)] != CID:
        raise LedgerError(f"cid {text[:16]}: must be a CIDv1 of raw data with sha2-256")
    return Address("dht", "sha256", raw[len(CID) :])


def _from_address(text: str) -> Address:
    scheme, engine, suite, digits = text.split(":")
    if scheme != "hub":
        raise LedgerError(f"address {text[:16]}: must start with hub:")
    return Address(engine, suite, bytes.fromhex(digits))


def _from_hex(text: str) -> Address:
    if not text.startswith("0x"):
        raise LedgerError(f"hex {text[:16]}: must start with 0x")
    return Address("chain", "sha256", bytes.fromhex(text[2:]))


SPELLINGS: dict[str, tuple[Callable[[Address], str], Callable[[str], Address]]] = {
    "address": (lambda a: f"hub:{a.engine}:{a.suite}:{a.digest.hex()}", _from_address),
    "hex": (lambda a: f"0x{a.digest.hex()}", _from_hex),
    "cid": (_to_cid, _from_cid),
}


def spell(address: Address, form: str) -> str:
    """An id as another platform writes it. Raises LedgerError for a form that does not exist or cannot say it."""
    if form not in SPELLINGS:
        raise LedgerError(f"form {form!r}: allowed: {', '.join(SPELLINGS)}")
    return SPELLINGS[form][0](address)


def parse(text: str, form: str) -> Address:
    """An id from another platform. Raises LedgerError. A form that does not name engine and suite means its own."""
    if form not in SPELLINGS:
        raise LedgerError(f"form {form!r}: allowed: {', '.join(SPELLINGS)}")
    try:
        return SPELLINGS[form][1](text)
    except (ValueError, binascii.Error) as error:
        raise LedgerError(f"{form} {text[:16]!r}: {error}") from None


def to_json(record: Record) -> str:
    """A record as JSON, with bytes in hex."""
    fields = {"body": record.body.hex(), "spends": record.spends.hex(), "signature": record.signature.hex()}
    plain = {"author": record.author, "kind": record.kind, "time": record.time, "suite": record.suite}
    return json.dumps(plain | fields, sort_keys=True)


def from_json(text: str) -> Record:
    """The record of such JSON; its signature still holds. Raises LedgerError."""
    try:
        said = json.loads(text)
        body, spends, signature = (bytes.fromhex(said[name]) for name in ("body", "spends", "signature"))
        return Record(said["author"], said["kind"], body, float(said["time"]), spends, said["suite"], signature)
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"not a record in JSON: {error!r}") from None
