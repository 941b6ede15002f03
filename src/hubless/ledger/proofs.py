"""Proofs of every engine in one form: steps from a record's id to a digest that the reader trusts.

Whatever an engine builds, it builds of digests: a Merkle node of two, a block of four (previous, records, history,
meta), a transaction of four (left, right, record, meta), an event of four (self parent, other parent, records, meta), a
version of three (previous, record, meta). A step says which of them it goes through and what stands beside the digest
it comes from. An engine's grammar, a regular expression over its steps, says which ways are proofs: going in by the
record's place, then up by a parent's; so a record that lies as a plain digest inside somebody's meta is not proven.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hubless.errors import ProofError
from hubless.ledger.record import Record
from hubless.ledger.suites import DIGEST, Hasher

PARTS = {"N": 2, "B": 4, "T": 4, "E": 4, "V": 3}


class Step(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """From a digest to the one above it.

    tag:    letter of what is hashed (``suites``)
    before: digests that stand before ours, joined
    after:  digests that stand after it, joined
    """

    tag: str
    before: bytes
    after: bytes

    @property
    def place(self) -> str:
        """The tag and the place of our digest: ``N1`` is the right half of a Merkle node."""
        return f"{self.tag}{len(self.before) // DIGEST}"


class Proof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Steps of one engine, with the hash suite they are made of."""

    engine: str
    suite: str
    steps: list[Step]

    def encode(self) -> bytes:
        """The proof as bytes."""
        return msgspec.msgpack.encode(self)


GRAMMARS = {
    "chain": r"(N[01] )*B1 ((N[01] )*B2 )?",  # into a block's records; then into a later block's history
    "tangle": r"T2 (T[01] )*(N[01] )*",  # into a transaction, up to one that approves it, among the trusted tips
    "hashgraph": r"(N[01] )*",  # among the ordered records
    "dht": r"(V1 (V0 )*)?(N[01] )*",  # the record itself, or a version of a key; among those in a catalogue
}
_GRAMMARS = {engine: re.compile(grammar) for engine, grammar in GRAMMARS.items()}


def decode(data: bytes) -> Proof:
    """The proof of these bytes. Raises ProofError when they are none."""
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProofError(f"{len(data)} bytes are no proof: {error}") from None


def climb(hasher: Hasher, digest: bytes, steps: Sequence[Step]) -> bytes:
    """The digest [32] that the steps lead to. Raises ProofError for a step that has not the parts of its kind."""
    for step in steps:
        beside = len(step.before) + len(step.after)
        if beside != (PARTS.get(step.tag, 0) - 1) * DIGEST or len(step.before) % DIGEST:
            raise ProofError(f"step {step.place}: {beside} bytes beside the digest")
        digest = hasher(step.tag.encode(), step.before, digest, step.after)
    return digest


def arrive(digest: bytes, proof: Proof, hasher: Hasher | None = None) -> bytes:
    """Where a proof leads from a digest. Raises ProofError for steps that the engine's grammar does not allow."""
    grammar = _GRAMMARS.get(proof.engine)
    if grammar is None:
        raise ProofError(f"engine {proof.engine!r}: has no proofs; {', '.join(GRAMMARS)} have")
    way = "".join(f"{step.place} " for step in proof.steps)
    if not grammar.fullmatch(way):
        raise ProofError(f"{proof.engine}: {way or 'no step'} is not the way of a proof")
    if hasher is None or hasher.suite != proof.suite:
        hasher = Hasher(proof.suite)
    return climb(hasher, digest, proof.steps)


def check(record: Record, proof: Proof, root: bytes, hasher: Hasher | None = None) -> None:
    """Raises SignatureError or ProofError unless the author signed the record and the proof leads to ``root``."""
    record.check()
    if hasher is None or hasher.suite != proof.suite:
        hasher = Hasher(proof.suite)
    digest = record.id(hasher)
    reached = arrive(digest, proof, hasher)
    if reached != root:
        raise ProofError(
            f"{proof.engine}: record {digest.hex()[:8]} leads to {reached.hex()[:8]}, not to the trusted root "
            f"{root.hex()[:8]}"
        )


_decoder = msgspec.msgpack.Decoder(Proof)
