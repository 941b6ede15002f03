"""Proofs across engines: from a record to one root of the anchor chain, checked with nothing but that root.

The way may go through records that hold nothing but a digest: a commitment holds the id of a record that is kept
elsewhere, an anchor the Merkle root over the roots of all engines. A hop ends in such a record; the last proof leads
into the anchor chain. Anybody may write a record with a digest in it, so only anchors by gateways that the reader names
count, and commitments by the record's own author or by a gateway.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from hubless.errors import ProofError
from hubless.ledger.proofs import Proof, Step, arrive, climb
from hubless.ledger.record import Record
from hubless.ledger.suites import Hasher

COMMITMENT, ANCHOR = "commitment", "anchor"


class Hop(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From a digest into the record that holds it: by an engine's proof, then over the roots of all engines."""

    proof: Proof
    across: list[Step]
    through: Record


class CrossProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Hops from a record to one that stands in the anchor chain, and the proof that it does."""

    hops: list[Hop]
    last: Proof

    def encode(self) -> bytes:
        """The proof as bytes."""
        return msgspec.msgpack.encode(self)


def decode(data: bytes) -> CrossProof:
    """The proof of these bytes. Raises ProofError when they are none."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProofError(f"{len(data)} bytes are no cross proof: {error}") from None


def check(record: Record, proof: CrossProof, anchor_root: bytes, gateways: Collection[str]) -> None:
    """Raises ProofError or SignatureError unless the proof leads from the record to the anchor root.

    gateways: public keys whose anchors and commitments the reader believes
    """
    record.check()
    said, anchors = record, Hasher(proof.last.suite)
    for hop in proof.hops:
        digest = said.id(Hasher(hop.proof.suite))
        hop.through.check()
        trusted = hop.through.author in gateways
        if hop.through.kind == COMMITMENT:
            trusted = trusted or hop.through.author == record.author
        elif hop.through.kind != ANCHOR:
            raise ProofError(f"a hop through a record of kind {hop.through.kind!r}: only {COMMITMENT} and {ANCHOR}")
        if not trusted:
            raise ProofError(f"{hop.through.kind} by {hop.through.author[:8]}: not somebody whom the reader trusts")
        if any(step.tag != "N" for step in hop.across):
            raise ProofError("the way across engines is one of Merkle nodes")
        digest = climb(anchors, arrive(digest, hop.proof), hop.across)
        if digest != hop.through.body:
            raise ProofError(f"{hop.through.kind} {hop.through.body.hex()[:8]} does not hold {digest.hex()[:8]}")
        said = hop.through
    if proof.last.engine != "chain":
        raise ProofError(f"the last proof is one of {proof.last.engine}: anchors stand in a chain")
    digest = said.id(anchors)
    if arrive(digest, proof.last) != anchor_root:
        raise ProofError(f"{digest.hex()[:8]} does not lead to the anchor root {anchor_root.hex()[:8]}")


_decoder = msgspec.msgpack.Decoder(CrossProof)
