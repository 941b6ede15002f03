"""A tangle: no blocks and no miners, every record approves two earlier ones.

Each transaction carries one record and a little work of its own, which makes spam cost something. It goes from its
issuer to all members directly; who gets one that approves what it does not have asks the sender for all that is
missing. A record is final here when at least 95 % of sampled tips stand on it.

Source: Popov, "The Tangle", 2018. Finality by share of tips is the paper's confirmation confidence (section 4.1); it is
a matter of probability, and each peer's own.
"""

from __future__ import annotations

import msgspec

from hubless.errors import ConfigError, LedgerError, NetworkError, ProofError, UnknownParent, UnknownRecord
from hubless.ledger import merkle
from hubless.ledger.ancestry import bits
from hubless.ledger.pending import Pending
from hubless.ledger.proofs import Proof, Step
from hubless.ledger.record import Record
from hubless.ledger.sealing import leading_zeros
from hubless.ledger.store import Engine, Receipt
from hubless.ledger.suites import META, TRANSACTION, Hasher
from hubless.ledger.tips import Tips
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

BATCH = 1024  # transactions of one answer
ROOTS = 256  # roots that were given out and can still be proven to


class Transaction(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What travels: the hashes of the two approved, an encoded record, the issuer's time, a nonce for the work."""

    left: bytes
    right: bytes
    record: bytes
    time: float
    nonce: int

    def meta(self, hasher: Hasher) -> bytes:
        """The digest of what is no digest in it."""
        return hasher(META, _encode((self.time, self.nonce)))

    def digest(self, hasher: Hasher, id: bytes) -> bytes:
        """The transaction's digest [32]; ``id`` is its record's."""
        return hasher(TRANSACTION, self.left, self.right, id, self.meta(hasher))


class Tangle(Engine):
    """One peer's tangle.

    alpha:  of the walk that chooses tips; None chooses uniformly
    bits:   leading zero bits of a transaction's hash
    check:  seconds between two looks at what is final
    share:  of the sampled tips, of which there are at most ``sample``, that must stand on a record
    """

    kind = "tangle"

    def __init__(
        self,
        net: Network,
        members: list[PeerId],
        *,
        name: str = "tangle",
        suite: str = "sha256",
        limit: int = 64 << 10,
        alpha: float | None = None,
        bits: int = 6,
        check: float = 1.0,
        share: float = 0.95,
        sample: int = 50,
    ) -> None:
        super().__init__(net, members, name=name, suite=suite, limit=limit)
        if not (check > 0 and 0.5 < share <= 1 and sample >= 1 and bits >= 0 and (alpha is None or alpha >= 0)):
            raise ConfigError(f"{name}: check must be positive, share in (0.5, 1], sample >= 1, bits and alpha >= 0")
        self.alpha, self.bits, self.check, self.share, self.sample = alpha, bits, check, share, sample
        genesis = self.hasher(META, name.encode())
        self.tips = Tips(genesis)
        self.transactions: list[Transaction | None] = [None]
        self.ids: list[bytes] = [b""]  # of the records, by place
        self.where: dict[bytes, int] = {}
        self.early: Pending[Transaction] = Pending(net.timeouts.orphan, net.limits.orphans)
        self._roots: dict[bytes, list[int]] = {}
        self._asking: dict[bytes, None] = {}
        self._mine: dict[int, float] = {}  # own transactions that are not final, and when they were last sent
        net.serve(f"{name}/transaction", self._hear)
        net.serve(f"{name}/missing", self._missing_for)

    async def start(self) -> None:
        """Take part."""
        self.net.spawn(self._look(), f"{self.name} confirming")

    async def append(self, record: Record) -> Receipt:
        """Attach a record to two tips and tell all members. Raises RecordTooLarge, SignatureError."""
        raw = record.encode()
        id = self.vet(raw).id(self.hasher)
        left, right = (self.tips.graph.hashes[tip] for tip in self.tips.choose(self.net.rng, 2, self.alpha))
        transaction = self._work(Transaction(left, right, raw, self.net.now(), 0), id)
        self._take(transaction)
        self._mine[self.where[id]] = self.net.now()
        self.tell("transaction", _encode(transaction))
        return Receipt(self.name, id, self.net.now())

    def root(self) -> bytes:
        """The Merkle root over the hashes of the present tips."""
        tips = self.tips.tips()
        root = merkle.root(self.hasher, [self.tips.graph.hashes[tip] for tip in tips])
        self._roots[root] = tips
        while len(self._roots) > ROOTS:
            del self._roots[next(iter(self._roots))]
        return root

    def trusted(self, id: bytes) -> bytes:
        """The hash of a tip that stands on the record. Raises UnknownRecord, ProofError."""
        tips = self.tips.tips()
        return self.tips.graph.hashes[tips[self._above(id, tips)]]

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps from a record to its transaction, from there to a tip that stands on it, and to the root over tips.

        A root may also be the hash of one transaction; the steps end there.
        """
        root = self.root() if root is None else root
        tips = self._roots.get(root)
        if tips is None and root in self.tips.graph:
            tips = [self.tips.graph.index[root]]
        if tips is None:
            raise UnknownRecord(f"{self.name}: no such root here as {root.hex()[:8]}")
        top = self._above(id, tips)
        item = self.where[id]
        way = [tips[top]]
        while way[-1] != item:  # from the tip down, by whichever parent stands on it and is the older
            way.append(min(p for p in self.tips.parents[way[-1]] if self.tips.graph.descends(p, item)))
        steps = [self._part(item, 2)]
        for child, parent in zip(way[-2::-1], way[:0:-1], strict=True):
            transaction = self.transactions[child]
            assert transaction is not None
            steps.append(self._part(child, 0 if transaction.left == self.tips.graph.hashes[parent] else 1))
        steps += merkle.path(self.hasher, [self.tips.graph.hashes[tip] for tip in tips], top)
        return Proof(self.kind, self.hasher.suite, steps)

    def _above(self, id: bytes, tips: list[int]) -> int:
        """Which of the tips stands on a record. Raises UnknownRecord, ProofError."""
        item = self.where.get(id)
        if item is None:
            raise UnknownRecord(f"{self.name}: no record {id.hex()[:8]} here")
        top = next((i for i, tip in enumerate(tips) if self.tips.graph.descends(tip, item)), None)
        if top is None:
            raise ProofError(f"{self.name}: none of the root's tips stands on record {id.hex()[:8]}")
        return top

    def audit(self) -> list[str]:
        """Transactions that do not stand where they say, and records that are not what they say."""
        faults = super().audit()
        for i, transaction in enumerate(self.transactions):
            if transaction is not None and transaction.digest(self.hasher, self.ids[i]) != self.tips.graph.hashes[i]:
                faults.append(f"transaction {i}: is not the one that others approve")
        return faults

    def stored(self) -> int:
        """Bytes of records and transactions."""
        return super().stored() + len(self.transactions) * (3 * 32 + 16)

    def _work(self, transaction: Transaction, id: bytes) -> Transaction:
        while self._bits_of(transaction, id) < self.bits:
            transaction = msgspec.structs.replace(transaction, nonce=transaction.nonce + 1)
        return transaction

    def _bits_of(self, transaction: Transaction, id: bytes) -> int:
        return leading_zeros(transaction.digest(self.hasher, id))

    def _part(self, item: int, place: int) -> Step:
        transaction = self.transactions[item]
        assert transaction is not None
        parts = [transaction.left, transaction.right, self.ids[item], transaction.meta(self.hasher)]
        return Step("T", b"".join(parts[:place]), b"".join(parts[place + 1 :]))

    async def _look(self) -> None:
        """See what has become final; send own transactions again that have not for long."""
        while True:
            await self.net.sleep(self.check)
            self.net.stats[f"reject:{self.name} unknown parent"] += self.early.expire(self.net.now())
            if not self.tips.open:
                continue
            tips = self.tips.tips()
            if self.alpha is not None:
                tips = self.tips.choose(self.net.rng, self.sample, self.alpha)
            elif len(tips) > self.sample:
                tips = self.net.rng.sample(tips, self.sample)
            for item in self.tips.confirm(tips, self.share):
                self._mine.pop(item, None)
                self.settle(self.ids[item])
            self._remind()

    def _remind(self) -> None:
        now = self.net.now()
        for item, sent in self._mine.items():
            if now - sent > self.net.timeouts.orphan:
                self._mine[item] = now
                self.tell("transaction", _encode(self.transactions[item]))

    def _hear(self, ctx: Context, body: bytes) -> None:
        try:
            transaction = _transaction(body)
        except msgspec.MsgspecError:
            self.drop("transaction")
            return
        missing = self._take(transaction)
        if missing is not None and missing not in self._asking:
            self._asking[missing] = None
            self.net.spawn(self._catch_up(ctx.src, missing), f"{self.name} catching up")

    def _take(self, transaction: Transaction) -> bytes | None:
        """Take a transaction in, and what waited for it; the hash of one that has to come first."""
        missing, ready = None, [transaction]
        while ready:
            transaction = ready.pop(0)
            try:
                record = self.vet(transaction.record)
                id = record.id(self.hasher)
                key = transaction.digest(self.hasher, id)
                if leading_zeros(key) < self.bits:
                    raise LedgerError(f"transaction {key.hex()[:8]}: less work than {self.bits} bits")
                if key in self.tips.graph:
                    continue
                item = self.tips.add(key, transaction.left, transaction.right, record.spends)
            except UnknownParent as error:
                missing = error.parent
                gone = self.early.wait(missing, transaction, self.net.now())
                self.net.stats[f"reject:{self.name} too many early"] += gone
                continue
            except LedgerError as error:
                self.drop(type(error).__name__)
                continue
            self.transactions.append(transaction)
            self.ids.append(id)
            self.where.setdefault(id, item)
            self.records.setdefault(id, transaction.record)
            ready += self.early.release(key)
        return missing

    async def _catch_up(self, peer: PeerId, missing: bytes) -> None:
        """Ask for all that a missing transaction stands on and nobody here has."""
        have = [self.tips.graph.hashes[tip] for tip in self.tips.tips()]
        try:
            answer = await self.net.request(peer, f"{self.name}/missing", _encode((missing, have)))
            for transaction in _transactions(answer):
                self._take(transaction)
        except (NetworkError, msgspec.MsgspecError):
            self.drop("catching up")
        finally:
            self._asking.pop(missing, None)

    def _missing_for(self, _: Context, body: bytes) -> bytes:
        try:
            wanted, have = _question(body)
        except msgspec.MsgspecError:
            self.drop("question")
            return _encode([])
        graph = self.tips.graph
        if wanted not in graph:
            return _encode([])
        mask = graph.past[graph.index[wanted]]
        for key in have:
            if key in graph:
                mask &= ~graph.past[graph.index[key]]
        return _encode([self.transactions[item] for item in bits(mask & ~1)][:BATCH])


_encode = msgspec.msgpack.Encoder().encode
_transaction = msgspec.msgpack.Decoder(Transaction).decode
_transactions = msgspec.msgpack.Decoder(list[Transaction]).decode
_question = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
