"""MPISA: every class of record goes to the engine that fits it, and one chain anchors them all.

A policy says what a class needs; the router takes the cheapest engine that has it. What is too large for the engines
with an order, or private, goes encrypted to the DHT, and a commitment (the id of the ciphertext) to the ordered engine.
Every so many seconds the Merkle root over the roots of all engines is written into the anchor chain, so that one root
of that chain proves any record of any engine (``cross_proof``).

Source: "Data Storage in the Decentralized World: Blockchain and Derivatives", 2020, names the architecture; routing by
needs, commitments and proofs are ours.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from hubless.errors import CapabilityError, ConfigError, ProofError, SignatureError, UnknownRecord
from hubless.ledger import cross_proof, merkle
from hubless.ledger.cross_proof import ANCHOR, COMMITMENT, CrossProof, Hop
from hubless.ledger.hash_chain import HashChain
from hubless.ledger.proofs import Proof, Step
from hubless.ledger.record import Record, decode, write
from hubless.ledger.signing import PeerKey, Signer
from hubless.ledger.store import OFFERS, Capability, Receipt, RecordStore, offering
from hubless.ledger.suites import DIGEST, Hasher
from hubless.net.network import Network

ONCE = bytes(12)  # the nonce: a key encrypts one text


@dataclass(frozen=True)
class Needs:
    """What a class of records needs.

    order: one order for all peers;  finality: seconds within which it must be final;  size: bytes of its largest body
    private: only who has the key may read it;  rate: records a second
    """

    order: bool = False
    finality: float = math.inf
    size: int = 1024
    private: bool = False
    rate: float = 0.0


@dataclass(frozen=True)
class Fits:
    """What an engine gives in this network: seconds to finality, largest body, records a second, copies of each."""

    finality: float
    size: int
    rate: float
    copies: int


@dataclass(frozen=True)
class Route:
    """Where a class goes: ``engine`` gets the record, or its commitment when the record itself goes to ``bulk``."""

    engine: str
    bulk: str = ""


@dataclass(frozen=True)
class Place:
    """Where a record is: ``held`` by one engine, proven by ``engine``, through a commitment if that is another."""

    engine: str
    held: str
    commitment: Record | None = None


class Mpisa:
    """One peer's router; the peer is a gateway: its anchors are signed with its identity.

    engines: by name;  anchors: the chain that anchors them, which may be one of the engines
    policy:  class of record to what it needs; fits: what each engine gives
    secret:  from which the keys of private records are made; whoever has it can read all of them
    """

    def __init__(
        self,
        net: Network,
        engines: Mapping[str, RecordStore],
        anchors: HashChain,
        policy: Mapping[str, Needs],
        fits: Mapping[str, Fits],
        *,
        secret: bytes,
        every: float = 30.0,
    ) -> None:
        if sorted(engines) != sorted(fits) or not every > 0:
            raise ConfigError("mpisa: fits must be given for the engines, and every must be positive")
        self.net = net
        self.engines = dict(engines)
        self.anchors = anchors
        self.fits = dict(fits)
        self.secret = secret
        self.every = every
        self.gateway = PeerKey(net.identity)
        self.routes = {kind: self.route(needs) for kind, needs in policy.items()}
        self.private = {kind for kind, needs in policy.items() if needs.private}
        self.written: list[tuple[Record, dict[str, bytes]]] = []  # anchors, with the roots that they hold
        self.placed: dict[bytes, Place] = {}

    async def start(self) -> None:
        """Anchor from now on."""
        self.net.spawn(self._anchor_always(), "mpisa anchoring")

    def route(self, needs: Needs) -> Route:
        """The cheapest engine, by copies of a record, that has what is needed.

        Raises CapabilityError when no engine is fit; it lists those that have the capability at all.
        """
        hidden = needs.private or needs.size > self._largest()
        size = DIGEST if hidden else needs.size
        sure = hidden or needs.order or not math.isinf(needs.finality)
        able = [
            name
            for name, fits in self.fits.items()
            if self._has(name, "order") >= needs.order
            and self._has(name, "finality") >= sure
            and fits.finality <= needs.finality
            and fits.size >= size
            and fits.rate >= needs.rate
        ]
        if not able:
            wanted: Capability = "order" if needs.order else "finality"
            raise CapabilityError("mpisa", f"{wanted} for {needs}", offering(wanted))
        engine = min(able, key=lambda name: (self.fits[name].copies, self.fits[name].finality, name))
        if not hidden:
            return Route(engine)
        bulk = [name for name in self.fits if self.engines[name].kind == "dht" and self.fits[name].size >= needs.size]
        if not bulk:
            raise CapabilityError("mpisa", f"bulk of {needs.size:,} bytes", ["dht"])
        return Route(engine, bulk[0])

    async def append(self, signer: Signer, record: Record) -> Receipt:
        """Hand a record in where its class belongs. Raises ConfigError for a class without a policy, and what the
        engines raise. The receipt's id is that of what is stored; its key, if any, opens it."""
        if record.kind not in self.routes:
            raise ConfigError(f"mpisa: kind {record.kind!r} has no policy; known: {', '.join(sorted(self.routes))}")
        route, key = self.routes[record.kind], b""
        if record.kind in self.private:
            key = hmac.digest(self.secret, record.said(), "sha256")
            box = ChaCha20Poly1305(key).encrypt(ONCE, record.encode(), None)
            record = write(signer, record.kind, box, record.time)
        if not route.bulk:
            receipt = await self.engines[route.engine].append(record)
            self.placed[receipt.id] = Place(route.engine, route.engine)
            return receipt
        receipt = await self.engines[route.bulk].append(record)
        commitment = write(self.gateway, COMMITMENT, receipt.id, record.time)
        await self.engines[route.engine].append(commitment)
        self.placed[receipt.id] = Place(route.engine, route.bulk, commitment)
        return Receipt(route.bulk, receipt.id, receipt.time, key)

    async def get(self, id: bytes, key: bytes = b"") -> Record:
        """The record with that id, opened with its key if it is private. Raises UnknownRecord, SignatureError."""
        record = await self.engines[self._place(id).held].get(id)
        return unseal(record, key) if key else record

    async def anchor(self) -> bytes:
        """Write the roots of all engines into the anchor chain; the id of the anchor."""
        roots = {name: store.root() for name, store in sorted(self.engines.items()) if store is not self.anchors}
        body = merkle.root(self.anchors.hasher, list(roots.values()))
        anchor = write(self.gateway, ANCHOR, body, self.net.now())
        self.written.append((anchor, roots))
        return (await self.anchors.append(anchor)).id

    def prove(self, id: bytes, root: bytes | None = None) -> CrossProof:
        """The way from a record to a root of the anchor chain, by default the present one.

        Raises UnknownRecord while there is none.
        """
        place = self._place(id)
        engine, commitment = place.engine, place.commitment
        hops: list[Hop] = []
        if commitment is not None:
            hops.append(Hop(Proof("dht", self.engines[place.held].suite, []), [], commitment))
            id = commitment.id(Hasher(self.engines[engine].suite))
        if self.engines[engine] is self.anchors:
            return CrossProof(hops, self.anchors.prove(id, root))
        for anchor, roots in self.written:
            try:
                hop = Hop(self.engines[engine].prove(id, roots[engine]), self._across(roots, engine), anchor)
                return CrossProof([*hops, hop], self.anchors.prove(anchor.id(self.anchors.hasher), root))
            except (UnknownRecord, ProofError):
                continue
        raise UnknownRecord(f"mpisa: record {id.hex()[:8]} is under no anchor yet")

    def verify(self, record: Record, proof: CrossProof, anchor_root: bytes) -> None:
        """As ``cross_proof.check``, with this peer as the only gateway."""
        cross_proof.check(record, proof, anchor_root, {self.gateway.author})

    def _across(self, roots: Mapping[str, bytes], engine: str) -> list[Step]:
        return merkle.path(self.anchors.hasher, list(roots.values()), list(roots).index(engine))

    def _largest(self) -> int:
        """Bytes of the largest body that an engine with finality takes."""
        return max((self.fits[name].size for name in self.engines if self._has(name, "finality")), default=0)

    def _has(self, name: str, capability: Capability) -> bool:
        return capability in OFFERS[self.engines[name].kind]

    def _place(self, id: bytes) -> Place:
        if id not in self.placed:
            raise UnknownRecord(f"mpisa: no record {id.hex()[:8]} was handed in here")
        return self.placed[id]

    async def _anchor_always(self) -> None:
        while True:
            await self.net.sleep(self.every)
            await self.anchor()


def unseal(record: Record, key: bytes) -> Record:
    """The private record inside another. Raises SignatureError when the key does not open it."""
    try:
        return decode(ChaCha20Poly1305(key).decrypt(ONCE, record.body, None))
    except (InvalidTag, ValueError):
        raise SignatureError("a private record that this key does not open") from None
