"""Records in a DHT, and versions of a key."""

import msgspec
import pytest

from hubless.errors import ProofError, UnknownRecord
from hubless.ledger import proofs
from hubless.ledger.dht_store import DhtStore


def store(replicas=3):
    return lambda net, ids: DhtStore(net, ids, replicas=replicas)


def test_a_record_outlives_some_of_its_holders(town):
    async def story(town):
        ids = [await town.append(0, f"record {k}") for k in range(10)]
        for peer in town.ids[2:5]:
            town.world.cut(peer)
        for k, id in enumerate(ids):
            assert (await town.engines[1].get(id)).body == f"record {k}".encode()
        assert sum(engine.stored() > 0 for engine in town.engines) > 3

    town(10, store(6), story)


def test_what_a_holder_puts_under_a_strange_id_is_passed_over(town):
    async def story(town):
        id = await town.append(0, "true")
        forged = town.record(1, "false")
        await town.nets[1].put(id, forged.encode(), 60.0)
        await town.nets[2].put(id, b"junk", 60.0)
        for engine in town.engines[3:]:
            assert (await engine.get(id)).body == b"true"
        await town.nets[1].put(b"k" * 32, forged.encode(), 60.0)
        with pytest.raises(UnknownRecord):
            await town.engines[4].get(b"k" * 32)
        assert sum(net.stats["reject:dht record"] for net in town.nets) >= 1
        assert any(engine.audit() for engine in town.engines)

    town(6, store(), story)


def test_versions_of_a_key_are_a_chain_that_its_last_digest_proves(town):
    async def story(town):
        writer, reader = town.engines[0], town.engines[4]
        records = [town.record(0, f"version {k}") for k in range(4)]
        digests = [await writer.update(b"page", record) for record in records]
        head = await reader.head(b"page", town.ids[0])
        assert head.digest(reader.hasher) == digests[-1]
        history = await reader.history(digests[-1])
        assert [version.number for version in history] == [0, 1, 2, 3]
        for k, record in enumerate(records):
            assert await reader.get(history[k].id) == record
            proof = reader.prove_version(history, k)
            reader.verify(record, proof, digests[-1])
            with pytest.raises(ProofError):
                reader.verify(records[k - 1], proof, digests[-1])
        assert await reader.head(b"page", town.ids[1]) is None
        with pytest.raises(UnknownRecord):
            await reader.history(b"?" * 32)

    town(6, store(), story)


def test_a_record_needs_no_steps_to_its_own_id(town):
    async def story(town):
        id = await town.append(0, "x")
        record = await town.engines[1].get(id)
        proof = town.engines[1].prove(id, id)
        assert proof.steps == []
        town.engines[2].verify(record, proof, id)
        with pytest.raises(ProofError):
            proofs.check(msgspec.structs.replace(town.record(0, "y")), proof, id)
        with pytest.raises(ProofError, match="one of chain"):
            town.engines[2].verify(record, proofs.Proof("chain", "sha256", []), id)

    town(4, store(), story)
