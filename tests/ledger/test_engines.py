"""What every engine does on a network, alike."""

import pytest

from hubless.errors import CapabilityError, ProofError, RecordTooLarge, SignatureError, UnknownRecord
from hubless.ledger.central import CentralDB
from hubless.ledger.dht_store import DhtStore
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.hashgraph import Hashgraph
from hubless.ledger.record import Record
from hubless.ledger.sealing import Authority, Work
from hubless.ledger.store import OFFERS
from hubless.ledger.tangle import Tangle

LIMIT = 2000
ENGINES = {
    "work": lambda net, ids: HashChain(net, ids, Work(1.0, bits=4, depth=2, real=True), limit=LIMIT),
    "authority": lambda net, ids: HashChain(net, ids, Authority.of(1.0, ids), limit=LIMIT),
    "tangle": lambda net, ids: Tangle(net, ids, bits=4, limit=LIMIT),
    "hashgraph": lambda net, ids: Hashgraph(net, ids, limit=LIMIT),
    "dht": lambda net, ids: DhtStore(net, ids, replicas=3),
    "central": lambda net, ids: CentralDB(net, ids, ids[0], limit=LIMIT),
}
every = pytest.mark.parametrize("name", ENGINES)
proving = pytest.mark.parametrize("name", [name for name in ENGINES if name != "central"])


async def written(town, count=12):
    ids = []
    for i in range(count):
        ids.append(await town.append(i % len(town.ids), f"record {i}"))
        await town.sleep(1.0)
    await town.sleep(20.0)
    return ids


@every
def test_records_become_final_and_can_be_read_everywhere(town, name):
    async def story(town):
        ids = await written(town)
        last = len(ids) if name != "tangle" else len(ids) - 2  # what nobody approves is never final
        for i, id in enumerate(ids[:last]):
            assert town.engines[i % 5].finality(id).state == "final", i
            record = await town.engines[(i + 1) % 5].get(id)
            assert record.body == f"record {i}".encode()
        with pytest.raises(UnknownRecord):
            await town.engines[1].get(bytes(8))
        assert town.engines[1].finality(bytes(8)).state == "unknown"
        assert [engine.audit() for engine in town.engines] == [[]] * 5
        assert all(engine.stored() > 0 for engine in town.engines[: 1 if name == "central" else 5])
        assert not town.rejects()

    town(5, ENGINES[name], story)


@every
def test_engines_with_an_order_have_one_and_others_say_who_has(town, name):
    async def story(town):
        ids = await written(town)
        kind = town.engines[0].kind
        if "order" not in OFFERS[kind]:
            with pytest.raises(CapabilityError, match="engines that have it: central, chain, hashgraph"):
                town.engines[0].order()
            return
        orders = [engine.order() for engine in town.engines]
        assert sorted(orders[0]) == sorted(ids)
        if kind != "central":
            assert all(order == orders[0] for order in orders)

    town(5, ENGINES[name], story)


@proving
def test_a_reader_finds_every_tampered_record(town, name):
    async def story(town):
        ids = (await written(town))[:8]
        writer, liar, reader = town.engines[0], town.engines[1], town.engines[2]
        for id in ids:
            root = id if name == "dht" else liar.root()
            if name == "dht":
                liar.records[id] = (await liar.get(id)).encode()
            assert (await reader.read(liar.net.peer_id, id, root)).id(reader.hasher) == id
            old = liar.records[id]
            liar.records[id] = old.replace(b"record", b"RECORD")
            with pytest.raises((SignatureError, ProofError)):
                await reader.read(liar.net.peer_id, id, root)
            assert any(id.hex()[:8] in fault for fault in liar.audit())
            forged = town.record(1, "another")  # well signed, by the liar, and not what stands under the id
            liar.records[id] = forged.encode()
            with pytest.raises(ProofError):
                await reader.read(liar.net.peer_id, id, root)
            liar.records[id] = old
        assert writer.audit() == []

    town(5, ENGINES[name], story)


@proving
def test_a_proof_for_another_root_is_refused(town, name):
    async def story(town):
        ids = await written(town)
        engine, id = town.engines[0], ids[0]
        record = await engine.get(id)
        root = engine.root()
        proof = engine.prove(id, root)
        engine.verify(record, proof, root)
        with pytest.raises(ProofError, match="not to the trusted root"):
            engine.verify(record, proof, bytes(32))
        with pytest.raises(ProofError):
            engine.verify(await engine.get(ids[5]), proof, root)
        with pytest.raises((UnknownRecord, ProofError)):
            engine.prove(id, bytes(32))
        with pytest.raises(UnknownRecord):
            engine.prove(bytes(32))

    town(5, ENGINES[name], story)


def test_a_database_can_be_changed_and_nobody_notices(town):
    async def story(town):
        ids = await written(town, 3)
        server, reader = town.engines[0], town.engines[1]
        server.overwrite(ids[1], town.record(0, "never happened"))
        assert (await reader.get(ids[1])).body == b"never happened"
        assert server.audit() == reader.audit() == []
        for ask in (reader.root, lambda: reader.prove(ids[1]), lambda: reader.verify(None, None, b"")):
            with pytest.raises(CapabilityError, match="central: no proof; engines that have it: chain, dht"):
                ask()

    town(3, ENGINES["central"], story)


@every
def test_a_record_that_is_too_large_or_not_signed_is_refused(town, name):
    async def story(town):
        engine = town.engines[1]
        with pytest.raises(RecordTooLarge):
            await engine.append(town.record(1, "x" * (engine.limit + 1)))
        if name != "central":
            with pytest.raises(SignatureError):
                await engine.append(Record(town.ids[1], "note", b"", 0.0))

    town(3, ENGINES[name], story)


@pytest.mark.parametrize(("name", "proto"), [
    ("work", "record"), ("work", "block"), ("work", "blocks"), ("authority", "vote"), ("authority", "votes"),
    ("tangle", "transaction"), ("tangle", "missing"), ("hashgraph", "told"), ("hashgraph", "ask"),
    ("dht", "read"), ("central", "put"), ("central", "get"),
])  # fmt: skip
def test_junk_is_dropped_and_counted(town, name, proto):
    async def story(town):
        server = town.engines[0]
        for junk in (b"", b"\xc1", b"\x93\x01\x02\x03", bytes(3000), b"\xff" * 40):
            town.nets[1].send(town.ids[0], f"{server.name}/{proto}", junk)
        await town.sleep(5.0)
        assert not any(key.startswith("failed") for key in town.nets[0].stats)
        await written(town, 4)
        return town.rejects()

    rejected = town(5, ENGINES[name], story)
    assert rejected or proto in ("read", "get", "put")


@proving
def test_lost_frames_are_made_good(town, name):
    async def story(town):
        ids = await written(town)
        await town.sleep(60.0)
        final = [town.engines[i % 5].finality(id).state for i, id in enumerate(ids)]
        assert final.count("final") >= len(ids) - 2
        if "order" in OFFERS[town.engines[0].kind]:
            assert all(engine.order() == town.engines[0].order() for engine in town.engines)

    town(5, ENGINES[name], story, loss=0.03)


@proving
def test_two_runs_are_the_same(town, name):
    async def story(town):
        ids = await written(town, 4)
        engine = town.engines[0]
        return ids, engine.settled, engine.work, engine.net.stats, engine.stored()

    assert town(5, ENGINES[name], story, seed=3) == town(5, ENGINES[name], story, seed=3)
