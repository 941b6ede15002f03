"""MPISA: routing by needs, commitments, anchors, and proofs from one root."""

import msgspec
import pytest

from hubless.errors import CapabilityError, ConfigError, LedgerError, ProofError, SignatureError, UnknownRecord
from hubless.ledger import cross_proof
from hubless.ledger.adapters import Address, from_json, parse, spell, to_json
from hubless.ledger.cross_proof import CrossProof, Hop
from hubless.ledger.dht_store import DhtStore
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.hashgraph import Hashgraph
from hubless.ledger.mpisa import Fits, Mpisa, Needs, Route, unseal
from hubless.ledger.record import write
from hubless.ledger.sealing import Authority
from hubless.ledger.signing import PeerKey
from hubless.ledger.suites import Hasher
from hubless.ledger.tangle import Tangle
from hubless.ledger.wots import WotsKey

POLICY = {
    "agreement": Needs(order=True, finality=10.0),
    "fast": Needs(order=True, finality=10.0, rate=5.0),
    "reading": Needs(finality=20.0, rate=20.0),
    "archive": Needs(size=20_000),
    "private": Needs(size=500, private=True),
}
FITS = {
    "chain": Fits(finality=4.0, size=4096, rate=1.0, copies=5),
    "hashgraph": Fits(finality=8.0, size=4096, rate=10.0, copies=5),
    "tangle": Fits(finality=10.0, size=4096, rate=100.0, copies=5),
    "dht": Fits(finality=1.0, size=60_000, rate=100.0, copies=3),
}


def chain(net, ids):
    return HashChain(net, ids, Authority.of(1.0, ids))


class Gate:
    """All engines at five peers, and a gateway at the first."""

    @classmethod
    async def at(cls, town):
        gate = cls()
        groups = {
            "chain": town.engines,
            "hashgraph": [Hashgraph(net, town.ids, suite="blake2b-256") for net in town.nets],
            "tangle": [Tangle(net, town.ids, bits=2, suite="sha3-256") for net in town.nets],
            "dht": [DhtStore(net, town.ids, replicas=3) for net in town.nets],
        }
        for name, group in groups.items():
            for engine in group if name != "chain" else ():
                await engine.start()
        own = {name: group[0] for name, group in groups.items()}
        gate.mpisa = Mpisa(town.nets[0], own, town.engines[0], POLICY, FITS, secret=b"s" * 32, every=10.0)
        await gate.mpisa.start()
        gate.gateways = {gate.mpisa.gateway.author}
        return gate


def test_each_class_goes_where_its_needs_are_met(town):
    async def story(town):
        gate = await Gate.at(town)
        assert gate.mpisa.routes == {
            "agreement": Route("chain"), "fast": Route("hashgraph"), "reading": Route("tangle"),
            "archive": Route("chain", "dht"), "private": Route("chain", "dht"),
        }  # fmt: skip
        assert gate.mpisa.route(Needs(size=100)) == Route("dht")  # nothing but to keep it: the fewest copies
        with pytest.raises(CapabilityError, match="engines that have it: central, chain, hashgraph"):
            gate.mpisa.route(Needs(order=True, finality=0.1))
        with pytest.raises(CapabilityError, match="engines that have it: chain, hashgraph, tangle"):
            gate.mpisa.route(Needs(finality=0.1))
        with pytest.raises(CapabilityError, match="bulk of 1,000,000 bytes"):
            gate.mpisa.route(Needs(size=1_000_000))
        with pytest.raises(ConfigError, match="'gossip' has no policy"):
            await gate.mpisa.append(town.signers[1], write(town.signers[1], "gossip", b"", 0.0))

    town(5, chain, story)


def test_every_record_of_every_engine_is_proven_by_one_root_of_the_anchors(town):
    async def story(town):
        gate = await Gate.at(town)
        mpisa, receipts = gate.mpisa, []
        for k in range(15):
            kind = sorted(POLICY)[k % 5]
            signer = town.signers[k % 5]
            body = bytes([k]) * (9000 if kind == "archive" else 200)
            record = write(signer, kind, body, town.nets[0].now())
            receipts.append((record, await mpisa.append(signer, record)))
            await town.sleep(1.0)
        with pytest.raises(UnknownRecord):
            mpisa.prove(bytes(32))
        await town.sleep(30.0)
        root = town.engines[3].root()  # a stranger's own copy of the chain
        for record, receipt in receipts:
            stored, proof = await mpisa.get(receipt.id), mpisa.prove(receipt.id, root)
            again = cross_proof.decode(proof.encode())
            cross_proof.check(stored, again, root, gate.gateways)
            mpisa.verify(stored, proof, root)
            assert (stored == record) == (record.kind != "private")
            with pytest.raises(ProofError, match="does not lead to the anchor root"):
                cross_proof.check(stored, proof, bytes(32), gate.gateways)
            other = next(r for r, _ in receipts if r.kind != "private" and r != record)
            with pytest.raises(ProofError):
                cross_proof.check(other, proof, root, gate.gateways)
            if proof.hops:
                with pytest.raises(ProofError, match="whom the reader trusts"):
                    cross_proof.check(stored, proof, root, {"f" * 64})

    town(5, chain, story)


def test_private_records_open_with_their_key_alone(town):
    async def story(town):
        gate = await Gate.at(town)
        signer = town.signers[1]
        made = [write(signer, "private", body, 1.0) for body in (b"one", b"two")]
        one, two = [await gate.mpisa.append(signer, record) for record in made]
        assert await gate.mpisa.get(one.id, one.key) == made[0]
        stored = await gate.mpisa.get(one.id)
        assert b"one" not in stored.encode()
        with pytest.raises(SignatureError, match="does not open"):
            unseal(stored, two.key)
        with pytest.raises(SignatureError, match="does not open"):
            unseal(stored, b"short")

    town(5, chain, story)


def test_a_hop_through_anything_but_a_commitment_or_an_anchor_is_refused(town):
    async def story(town):
        gate = await Gate.at(town)
        signer, hasher = town.signers[1], Hasher()
        forged = write(signer, "archive", b"never stored", 1.0)
        carrier = write(signer, "agreement", forged.id(hasher), 1.0)  # an ordinary record that holds a digest
        receipt = await gate.mpisa.append(signer, carrier)
        await town.sleep(20.0)
        last, root = gate.mpisa.prove(receipt.id).last, gate.mpisa.anchors.root()
        last = gate.mpisa.prove(receipt.id, root).last
        empty = cross_proof.Proof("dht", "sha256", [])
        with pytest.raises(ProofError, match="through a record of kind 'agreement'"):
            cross_proof.check(forged, CrossProof([Hop(empty, [], carrier)], last), root, gate.gateways)
        tampered = msgspec.structs.replace(carrier, kind="commitment")
        with pytest.raises(SignatureError):
            cross_proof.check(forged, CrossProof([Hop(empty, [], tampered)], last), root, gate.gateways)
        with pytest.raises(ProofError):
            cross_proof.decode(b"junk")

    town(5, chain, story)


def test_a_record_of_the_quantum_safe_suite_is_kept_and_proven_like_any_other(town):
    async def story(town):
        gate = await Gate.at(town)
        record = write(WotsKey(b"k" * 32), "agreement", b"for long", 1.0)
        receipt = await gate.mpisa.append(town.signers[0], record)
        await town.sleep(20.0)
        root = gate.mpisa.anchors.root()
        kept, proof = await gate.mpisa.get(receipt.id), gate.mpisa.prove(receipt.id, root)
        assert kept == record
        cross_proof.check(kept, proof, root, gate.gateways)
        with pytest.raises(LedgerError):
            cross_proof.check(msgspec.structs.replace(kept, body=b"for ever"), proof, root, gate.gateways)

    town(5, chain, story)


def test_ids_and_records_survive_translation():
    from hubless.net.identity import Identity

    record = write(PeerKey(Identity.derived(0, 0)), "note", b"\x00\xff", 1.5, b"coin")
    assert from_json(to_json(record)) == record
    from_json(to_json(record)).check()
    for suite in ("sha256", "sha3-256"):
        for engine in ("chain", "dht"):
            address = Address(engine, suite, record.id(Hasher(suite)))
            assert parse(spell(address, "address"), "address") == address
    digest = record.id(Hasher())
    assert parse(spell(Address("chain", "sha256", digest), "hex"), "hex").digest == digest
    cid = spell(Address("dht", "sha256", digest), "cid")
    assert cid.startswith("bafkrei")  # what every CIDv1 of raw data with sha2-256 starts with
    assert parse(cid, "cid") == Address("dht", "sha256", digest)


@pytest.mark.parametrize(
    ("text", "form"),
    [("0xzz", "hex"), ("12", "hex"), ("0x12", "hex"), ("bafy", "cid"), ("!", "cid"), ("hub:a", "address"),
     ("hub:chain:md5:00", "address"), ("http:chain:sha256:00", "address"), ("x", "roman")],
)  # fmt: skip
def test_ids_that_are_none_are_refused(text, form):
    with pytest.raises(LedgerError):
        parse(text, form)


def test_what_a_form_cannot_say_is_refused():
    with pytest.raises(LedgerError, match="only of sha256"):
        spell(Address("dht", "sha3-256", bytes(32)), "cid")
    for text in ("{", "{}", "[]", '{"body": 1}'):
        with pytest.raises(LedgerError):
            from_json(text)
