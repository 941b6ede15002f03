"""Records, suites and one-time signatures."""

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import LedgerError, ProofError, SignatureError
from hubless.ledger import proofs, record, wots
from hubless.ledger.pending import Pending
from hubless.ledger.proofs import Proof, Step
from hubless.ledger.signing import PeerKey
from hubless.ledger.suites import HASHES, Hasher
from hubless.ledger.wots import WotsKey
from hubless.net.identity import Identity


def signers():
    return [PeerKey(Identity.derived(0, 0)), WotsKey(b"s" * 32)]


@pytest.mark.parametrize("signer", signers(), ids=lambda s: s.suite)
def test_a_record_is_signed_by_its_author_in_every_suite(signer):
    made = record.write(signer, "note", b"body", 1.0, b"coin")
    made.check()
    assert record.decode(made.encode()) == made
    for name, value in (("body", b"Body"), ("time", 2.0), ("kind", "x"), ("spends", b""), ("author", "f" * 64)):
        with pytest.raises(SignatureError, match="not signed"):
            msgspec.structs.replace(made, **{name: value}).check()


def test_ids_differ_by_suite_and_do_not_depend_on_the_signature():
    made = record.write(PeerKey(Identity.derived(0, 0)), "note", b"body", 1.0)
    ids = {made.id(Hasher(name)) for name in HASHES}
    assert len(ids) == len(HASHES)
    assert msgspec.structs.replace(made, signature=b"").id(Hasher()) == made.id(Hasher())


def test_unknown_suites_are_refused():
    made = record.write(PeerKey(Identity.derived(0, 0)), "note", b"body", 1.0)
    with pytest.raises(SignatureError, match="known: ed25519, wots-sha256"):
        msgspec.structs.replace(made, suite="rsa").check()
    with pytest.raises(SignatureError, match="sha3-256"):
        Hasher("md5")


@settings(deadline=None, max_examples=10)
@given(st.binary(max_size=64), st.integers(0, wots.SIGNATURE - 1), st.integers(1, 255))
def test_a_one_time_signature_holds_for_its_message_alone(message, place, flip):
    key = WotsKey(hashlib.sha256(message).digest())
    signature = key.sign(message)
    assert len(signature) == wots.SIGNATURE == 2144
    assert wots.verify(key.author, message, signature)
    assert not wots.verify(key.author, message + b"!", signature)
    broken = bytearray(signature)
    broken[place] ^= flip
    assert not wots.verify(key.author, message, bytes(broken))
    assert not wots.verify(key.author, message, signature[:-1])


def test_a_one_time_key_refuses_to_sign_twice():
    key = WotsKey(b"s" * 32)
    key.sign(b"a")
    with pytest.raises(SignatureError, match="signs once"):
        key.sign(b"b")


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x90", b"{}", msgspec.msgpack.encode(["a", 1])])
def test_bytes_that_are_no_record_or_proof_are_refused(junk):
    with pytest.raises(LedgerError):
        record.decode(junk)
    with pytest.raises(ProofError):
        proofs.decode(junk)


def test_a_proof_for_another_root_or_of_another_way_is_refused():
    made = record.write(PeerKey(Identity.derived(0, 0)), "note", b"body", 1.0)
    hasher = Hasher()
    other = bytes(32)
    step = Step("N", b"", other)
    root = hasher(b"N", made.id(hasher), other)
    proofs.check(made, Proof("hashgraph", "sha256", [step]), root)
    with pytest.raises(ProofError, match="not to the trusted root"):
        proofs.check(made, Proof("hashgraph", "sha256", [step]), other)
    with pytest.raises(ProofError, match="not the way"):
        proofs.check(made, Proof("chain", "sha256", [step]), root)
    with pytest.raises(ProofError, match="has no proofs"):
        proofs.check(made, Proof("central", "sha256", []), root)
    meta = Proof("chain", "sha256", [Step("B", bytes(96), b"")])  # in by the place of the meta
    with pytest.raises(ProofError, match="not the way"):
        proofs.check(made, meta, root)


def test_what_waits_for_its_parent_comes_back_once_or_goes_after_a_while():
    pending = Pending(5.0, 3)
    assert pending.wait(b"p", "one", 0.0) == 0
    assert pending.wait(b"p", "two", 1.0) == 0
    assert pending.release(b"p") == ["one", "two"]
    assert pending.release(b"p") == []
    pending.wait(b"a", "x", 0.0)
    pending.wait(b"b", "y", 3.0)
    assert pending.expire(5.0) == 1
    assert b"a" not in pending
    assert b"b" in pending
    for i in range(4):
        gone = pending.wait(b"%d" % i, "z", 4.0)
    assert gone == 1
    assert len(pending) == 3
