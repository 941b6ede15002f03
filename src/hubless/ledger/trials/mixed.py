"""A mixed workload, all of it on one chain, or routed by MPISA: what a peer has to keep, and what can be proven."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from hubless.errors import LedgerError
from hubless.ledger import cross_proof
from hubless.ledger.dht_store import DhtStore
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.mpisa import Fits, Mpisa, Needs
from hubless.ledger.record import Record, write
from hubless.ledger.sealing import Authority
from hubless.ledger.signing import Signer
from hubless.ledger.store import Engine
from hubless.ledger.tangle import Tangle
from hubless.ledger.trials.town import Town
from hubless.net.network import Network
from hubless.net.transports.sim import run_sim
from hubless.net.transports.transport import PeerId
from hubless.run.stages import Findings

LATENCY, SLOT, EVERY = 0.1, 2.0, 30.0
BULK, ORDERED, SMALL = 16_000, 256, 128  # bytes of a body
SHARE = 0.95  # of all bytes are bulk
POLICY = {
    "agreement": Needs(order=True, finality=30.0, size=ORDERED),
    "reading": Needs(finality=60.0, size=SMALL, rate=2.0),
    "archive": Needs(size=BULK),
    "private": Needs(size=BULK, private=True),
}


@dataclass(frozen=True)
class Mixed:
    """Mean bytes a peer keeps with everything on the chain, and with MPISA; and what its proofs are worth.

    proven:  share of the records that a reader with the anchor root alone could check
    proof:   mean bytes of a cross proof
    kept:    mean bytes a peer by engine
    opened:  share of the private records that their key opened, and no other
    """

    chain: float
    mpisa: float
    proven: float
    proof: float
    kept: dict[str, float]
    opened: float

    @property
    def saving(self) -> float:
        """How many times less a peer keeps."""
        return self.chain / self.mpisa


@dataclass(frozen=True)
class Routed:
    """A trial: the mixed workload, on the chain alone and through MPISA; ``copies`` peers keep a bulk record."""

    peers: int
    copies: int
    seconds: float

    def findings(self, seed: int) -> Findings:
        """Storage a peer and proofs."""
        found = run(peers=self.peers, copies=self.copies, seconds=self.seconds, seed=seed)
        kept = {f"MPISA: {name}": size / 1000 for name, size in found.kept.items()}
        figures = [
            {"type": "bars", "title": "What a peer keeps of a mixed workload", "ylabel": "kB",
             "labels": ["all on the chain", "MPISA", *kept],
             "groups": {"kB a peer": [found.chain / 1000, found.mpisa / 1000, *kept.values()]}},
        ]  # fmt: skip
        metrics = {
            "storage_saving": found.saving, "stored_all_on_chain": found.chain, "stored_mpisa": found.mpisa,
            "proven_from_one_root": found.proven, "cross_proof_bytes": found.proof, "private_opened": found.opened,
        }  # fmt: skip
        return Findings(metrics, figures=figures)


def run(*, peers: int, copies: int, seconds: float, seed: int) -> Mixed:
    """Play both. ``copies``: peers that keep a bulk record."""
    chain = run_sim(_all_on_chain(peers, seconds, seed))
    return run_sim(_routed(peers, copies, seconds, seed, chain))


def _workload(draw: Random, seconds: float, signers: list[Signer], start: float) -> Iterator[tuple[float, Record]]:
    """A bulk record every two seconds, half of them private, and small ones of which there are 5 % of the bytes."""
    bulk = max(4, round(seconds / 2))
    small = round(bulk * BULK * (1 - SHARE) / SHARE / (ORDERED + SMALL))
    plan = [("private" if i % 2 else "archive", BULK) for i in range(bulk)]
    plan += [(kind, size) for kind, size in (("agreement", ORDERED), ("reading", SMALL)) for _ in range(small)]
    draw.shuffle(plan)
    for i, (kind, size) in enumerate(plan):
        time = start + i * seconds / len(plan)
        yield time, write(draw.choice(signers), kind, draw.randbytes(size), time)


def _chain(net: Network, ids: list[PeerId]) -> HashChain:
    return HashChain(net, ids, Authority.of(SLOT, ids))


async def _all_on_chain(peers: int, seconds: float, seed: int) -> float:
    async with Town(peers, LATENCY, seed, _chain) as town:
        for one in town.engines:
            await one.start()
        clock = town.nets[0]
        for time, record in _workload(Random(f"mixed/{seed}"), seconds, list(town.signers), clock.now()):
            await clock.sleep(time - clock.now())
            await town.engines[0].append(record)
        await clock.sleep(2 * EVERY)
        return fmean(one.stored() for one in town.engines)


async def _routed(peers: int, copies: int, seconds: float, seed: int, chain: float) -> Mixed:
    async with Town(peers, LATENCY, seed, _chain) as town:
        tangles = [Tangle(net, town.ids) for net in town.nets]
        stores = [DhtStore(net, town.ids, replicas=copies) for net in town.nets]
        engines: dict[str, Sequence[Engine]] = {"chain": town.engines, "tangle": tangles, "dht": stores}
        for group in engines.values():
            for one in group:
                await one.start()
        fits = {
            "chain": Fits(finality=4 * SLOT, size=4096, rate=1.0, copies=peers),
            "tangle": Fits(finality=10.0, size=4096, rate=100.0, copies=peers),
            "dht": Fits(finality=1.0, size=stores[0].limit - 1024, rate=100.0, copies=copies),
        }
        secret = Random(f"secret/{seed}").randbytes(32)
        own = {name: group[0] for name, group in engines.items()}
        gateway = Mpisa(town.nets[0], own, town.engines[0], POLICY, fits, secret=secret, every=EVERY)
        await gateway.start()
        clock, receipts = town.nets[0], []
        for time, record in _workload(Random(f"mixed/{seed}"), seconds, list(town.signers), clock.now()):
            await clock.sleep(time - clock.now())
            signer = next(signer for signer in town.signers if signer.author == record.author)
            receipts.append((record, await gateway.append(signer, record)))
        await clock.sleep(2 * EVERY)
        root, gateways = town.engines[0].root(), {gateway.gateway.author}
        proven, sizes, opened = 0, [], []
        for record, receipt in receipts:
            try:
                stored, proof = await gateway.get(receipt.id), gateway.prove(receipt.id, root)
                cross_proof.check(stored, cross_proof.decode(proof.encode()), root, gateways)
            except LedgerError:
                continue
            proven += 1
            sizes.append(len(proof.encode()))
            if receipt.key:
                opened.append(await gateway.get(receipt.id, receipt.key) == record)
        kept = {name: fmean(one.stored() for one in group) for name, group in engines.items()}
        return Mixed(
            chain, sum(kept.values()), proven / len(receipts), fmean(sizes), kept, fmean(opened) if opened else 1.0
        )
