"""One peer changes one record that it keeps; everybody reads that record from it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hubless.errors import LedgerError, ProofError, SignatureError, UnknownRecord
from hubless.ledger.central import CentralDB
from hubless.ledger.record import decode, write
from hubless.ledger.store import Engine
from hubless.ledger.trials.town import Town, Tuning, engine
from hubless.net.transports.sim import run_sim

LATENCY = 0.1


@dataclass(frozen=True)
class Tampered:
    """Of the readers: the share that accepted the record as it was, and that noticed the one that was changed.

    audit: whether the liar's replica, looked through by itself, shows the change
    """

    accepted: float
    noticed: float
    audit: bool


def run(kind: str, *, peers: int, records: int, seed: int, tuning: Tuning = Tuning()) -> Tampered:  # noqa: B008
    """Play it for one engine."""
    return run_sim(_play(kind, peers, records, seed, tuning))


async def _play(kind: str, peers: int, records: int, seed: int, tuning: Tuning) -> Tampered:
    async with Town(peers, LATENCY, seed, engine(kind, LATENCY, 1.0, tuning)) as town:
        for one in town.engines:
            await one.start()
        draw, clock = Random(f"tampering/{seed}"), town.nets[0]
        ids = []
        for k in range(records):
            record = write(town.signers[k % peers], "note", b"record %d" % k, clock.now())
            ids.append((await town.engines[k % peers].append(record)).id)
            await clock.sleep(1.0)
        await clock.sleep(30.0)
        id = draw.choice(ids[: records // 2])
        liar = town.engines[0]
        readers = [one for one in town.engines if one is not liar]
        if isinstance(liar, CentralDB):
            before = await liar.get(id)
            accepted = sum([await reader.get(id) == before for reader in readers])
            liar.overwrite(id, write(town.signers[1], "note", b"never happened", clock.now()))
            noticed = sum([await _notices(reader, id) for reader in readers])
        else:
            liar.records[id] = (await liar.get(id)).encode()
            accepted = sum([not await _refuses(reader, liar, id) for reader in readers])
            before = decode(liar.records[id])
            liar.records[id] = write(town.signers[0], before.kind, b"never happened", before.time).encode()
            noticed = sum([await _refuses(reader, liar, id) for reader in readers])
        return Tampered(accepted / len(readers), noticed / len(readers), bool(liar.audit()))


async def _refuses(reader: Engine, liar: Engine, id: bytes) -> bool:
    """Whether a reader refuses what the liar answers. An answer that does not come is no discovery."""
    try:
        await reader.read(liar.net.peer_id, id)
    except (ProofError, SignatureError):
        return True
    except UnknownRecord:
        return False
    return False


async def _notices(reader: Engine, id: bytes) -> bool:
    """Whether anything that a reader of a database can do shows that a row was changed."""
    record = await reader.get(id)
    try:
        record.check()
        reader.verify(record, reader.prove(id), b"")
    except SignatureError:
        return True
    except LedgerError:  # there is nothing to verify against
        return False
    return False
