"""A chain of blocks kept by all members: by proof of work, or by authorities in turn whose votes make blocks final.

A record goes to all members and waits until a block takes it. Blocks go from their sealer to all members directly; who
gets one that stands on a block it does not have asks its sender for what lies between. Records of a block that leaves
the chain wait again, so a stale block's records are neither lost nor counted.

Source: Nakamoto, "Bitcoin", 2008 (work, depth); for authorities, blocks in turn as in Aura and Clique with the votes of
``attestations``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from hubless.errors import LedgerError, NetworkError, NotAuthority, ProofError, UnknownParent, UnknownRecord
from hubless.ledger import merkle
from hubless.ledger.attestations import Attestations, Vote
from hubless.ledger.block_tree import BlockTree, Header, Move, Node
from hubless.ledger.merkle import Log
from hubless.ledger.pending import Pending
from hubless.ledger.proofs import Proof, Step
from hubless.ledger.record import Record
from hubless.ledger.sealing import Authority, Work
from hubless.ledger.store import Engine, Receipt
from hubless.ledger.suites import Hasher
from hubless.net.identity import verify
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId

BLOCK, VOTE = b"hubless/1/block", b"hubless/1/vote"
BATCH = 128  # blocks of one answer
AHEAD = 2.0  # seconds that a block's time may be before us


class Block(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block as it travels: header, encoded records, the sealer's signature over the header's hash."""

    header: Header
    records: list[bytes]
    seal: bytes


class HashChain(Engine):
    """One peer's chain. ``records_a_block`` is how many a block takes; ``limit`` bytes are the most of one."""

    kind = "chain"

    def __init__(
        self,
        net: Network,
        members: list[PeerId],
        sealing: Work | Authority,
        *,
        name: str = "chain",
        suite: str = "sha256",
        limit: int = 64 << 10,
        records_a_block: int = 64,
    ) -> None:
        super().__init__(net, members, name=name, suite=suite, limit=limit)
        self.sealing = sealing
        self.records_a_block = records_a_block
        self.tree = BlockTree(name, self.hasher, self._rank if isinstance(sealing, Authority) else None)
        authorities = sealing.authorities if isinstance(sealing, Authority) else ()
        self.votes = Attestations(authorities, self.tree.head.hash, self.tree.between)
        self.waiting: dict[bytes, bytes] = {}  # records in no block of the chain
        self.where: dict[bytes, Node] = {}  # the block of the chain that has a record
        self.spent: dict[bytes, bytes] = {}
        self.seals: dict[bytes, bytes] = {}
        self.final = 0  # height of the last final block
        self.early: Pending[Block] = Pending(net.timeouts.orphan, net.limits.orphans)
        self._asking: dict[bytes, None] = {}
        self._voted = (0, 0)  # heights of source and target of the last vote
        for proto, handler in (("record", self._hear_record), ("block", self._hear_block), ("vote", self._hear_vote)):
            net.serve(f"{name}/{proto}", handler)
        net.serve(f"{name}/blocks", self._blocks_for)
        net.serve(f"{name}/votes", self._votes_for)

    async def start(self) -> None:
        """Take part: seal blocks, and send own records again that no block has taken."""
        self.net.spawn(self._mine() if isinstance(self.sealing, Work) else self._take_turns(), f"{self.name} sealing")
        self.net.spawn(self._remind(), f"{self.name} reminder")

    async def append(self, record: Record) -> Receipt:
        """Hand a record to all members. Raises RecordTooLarge, SignatureError."""
        raw = record.encode()
        id = self.vet(raw).id(self.hasher)
        self._wait(id, raw)
        self.tell("record", raw)
        return Receipt(self.name, id, self.net.now())

    def root(self) -> bytes:
        """The hash of the last final block."""
        return self.tree.chain[self.final].hash

    def prove(self, id: bytes, root: bytes | None = None) -> Proof:
        """Steps from a record to a block of the chain, by default the last final one."""
        node = self.where.get(id)
        top = self.tree.nodes.get(root if root is not None else self.root())
        if node is None or top is None or not self.tree.on_chain(top):
            missing = id.hex()[:8] if node is None else "the root's block"
            raise UnknownRecord(f"{self.name}: {missing} is not on the chain")
        if node.height > top.height:
            raise ProofError(f"{self.name}: record {id.hex()[:8]} came after that root")
        steps = merkle.path(self.hasher, node.ids, node.ids.index(id))
        steps.append(_part(node, self.hasher, 1))
        if node is not top:
            blocks = Log(self.hasher, (block.hash for block in self.tree.chain[: top.height]))
            steps += [*blocks.path(node.height), _part(top, self.hasher, 2)]
        return Proof(self.kind, self.hasher.suite, steps)

    def audit(self) -> list[str]:
        """Blocks of the chain whose records are not theirs, and records that are not what they say."""
        faults = super().audit()
        for before, node in zip(self.tree.chain, self.tree.chain[1:], strict=False):
            assert node.header is not None
            if node.header.digest(self.hasher) != node.hash or node.header.prev != before.hash:
                faults.append(f"block {node.height}: is not the one after {before.hash.hex()[:8]}")
        return faults

    def stored(self) -> int:
        """Bytes of records and of all blocks, stale ones too."""
        headers = 5 * 32 + 64 + 32  # three digests, hash and sealer; signature; numbers
        return super().stored() + sum(headers + 32 * len(node.ids) for node in self.tree.nodes.values())

    def stale(self) -> float:
        """Share of the blocks that are not on the chain."""
        known = len(self.tree.nodes) - 1
        return 1 - (len(self.tree.chain) - 1) / known if known else 0.0

    # sealing

    async def _mine(self) -> None:
        assert isinstance(self.sealing, Work)
        while math.isfinite(self.sealing.interval):
            await self.net.sleep(self.net.rng.expovariate(1 / (self.sealing.interval * len(self.members))))
            self.seal(self.net.now())

    async def _take_turns(self) -> None:
        assert isinstance(self.sealing, Authority)
        while True:
            slot = math.floor(self.net.now() / self.sealing.slot + 1e-6) + 1
            await self.net.sleep(slot * self.sealing.slot - self.net.now())
            work_left = self.waiting or any(node.ids for node in self.tree.chain[self.final + 1 :])
            if work_left and self.sealing.turn(slot * self.sealing.slot)[1] == self.net.peer_id:
                self.seal(slot * self.sealing.slot)

    def seal(self, time: float) -> None:
        """Make a block of what has waited longest, and send it: a miner's luck, or an authority's slot."""
        ids = list(self.waiting)[: self.records_a_block]
        header = self.tree.draft(self.tree.head, ids, time, self.sealing.bits, self.net.peer_id)
        if isinstance(self.sealing, Work):
            header = self.sealing.seal(header, self.hasher)
        key = header.digest(self.hasher)
        self.work["signatures"] += 1
        block = Block(header, [self.waiting[id] for id in ids], self.net.identity.sign(BLOCK, key))
        self.tell("block", _encode(block))
        self._take(block)

    async def _remind(self) -> None:
        """Records that this peer was given and nobody has taken may have been lost on the way."""
        while True:
            await self.net.sleep(self.net.timeouts.orphan / 3)
            self.net.stats[f"reject:{self.name} unknown parent"] += self.early.expire(self.net.now())
            for raw in list(self.waiting.values())[: self.records_a_block]:
                self.tell("record", raw)

    # what others say

    def _hear_record(self, _: Context, raw: bytes) -> None:
        try:
            self._wait(self.vet(raw).id(self.hasher), raw)
        except LedgerError as error:
            self.drop(type(error).__name__)

    def _wait(self, id: bytes, raw: bytes) -> None:
        if id not in self.records and len(self.waiting) < self.net.limits.orphans:
            self.records[id] = raw
            if id not in self.where:
                self.waiting[id] = raw

    def _hear_block(self, ctx: Context, body: bytes) -> None:
        try:
            block = _block(body)
        except msgspec.MsgspecError:
            self.drop("block")
            return
        missing = self._take(block)
        if missing is not None and missing not in self._asking:
            self._asking[missing] = None
            self.net.spawn(self._catch_up(ctx.src, missing), f"{self.name} catching up")

    def _take(self, block: Block) -> bytes | None:
        """Take a block in, and what waited for it; the hash of a block that has to come first."""
        missing = None
        ready = [block]
        while ready:
            block = ready.pop(0)
            try:
                key = self._check(block)
                ids = [self.vet(raw).id(self.hasher) for raw in block.records]
                move = self.tree.add(block.header, ids)
            except UnknownParent as error:
                missing = error.parent
                self.net.stats[f"reject:{self.name} too many early"] += self.early.wait(missing, block, self.net.now())
                continue
            except LedgerError as error:
                self.drop(type(error).__name__)
                continue
            self.seals[key] = block.seal
            self.records.update((id, raw) for id, raw in zip(ids, block.records, strict=True) if id not in self.records)
            if move is not None:
                self._move(move)
            ready += self.early.release(key)
        return missing

    def _check(self, block: Block) -> bytes:
        """The block's hash. Raises LedgerError for one that nobody had a right to make."""
        key = block.header.digest(self.hasher)
        self.sealing.check(block.header, key)
        if block.header.time > self.net.now() + AHEAD:
            raise LedgerError(f"block {key.hex()[:8]}: of the future")
        self.work["verified"] += 1
        if len(block.records) > self.records_a_block or not verify(block.header.sealer, BLOCK, key, block.seal):
            raise LedgerError(f"block {key.hex()[:8]}: too many records, or not signed by its sealer")
        return key

    async def _catch_up(self, peer: PeerId, missing: bytes) -> None:
        """Ask for the blocks between the chain and one that is missing."""
        chain, steps = self.tree.chain, [0]
        while steps[-1] < len(self.tree.chain) - 1:
            steps.append(min(len(chain) - 1, max(1, 2 * steps[-1])))
        have = [chain[-1 - step].hash for step in steps]
        try:
            answer = await self.net.request(peer, f"{self.name}/blocks", _encode((missing, have)))
            for block in _blocks(answer):
                self._take(block)
        except (NetworkError, msgspec.MsgspecError):
            self.drop("catching up")
        finally:
            self._asking.pop(missing, None)

    def _blocks_for(self, _: Context, body: bytes) -> bytes:
        try:
            wanted, have = _question(body)
        except msgspec.MsgspecError:
            self.drop("question")
            return _encode([])
        known, blocks = set(have), []
        node = self.tree.nodes.get(wanted)
        while node is not None and node.header is not None and node.hash not in known:
            blocks.append(Block(node.header, [self.records[id] for id in node.ids], self.seals[node.hash]))
            node = node.parent
        return _encode(blocks[::-1][:BATCH])

    # where the chain goes

    def _move(self, move: Move) -> None:
        for node in move.left:
            for id in node.ids:
                if self.where.get(id) is node:
                    del self.where[id]
                    self.waiting[id] = self.records[id]
        if move.left and move.left[0].height <= self.final:
            self._undo(move.left[0].height)
        for node in move.joined:
            for id in node.ids:
                self.where.setdefault(id, node)
                self.waiting.pop(id, None)
        if isinstance(self.sealing, Work):
            self._finalise(self.tree.head.height - self.sealing.depth)
        else:
            self._finalise_voted()
            self._vote()

    def _undo(self, height: int) -> None:
        """A branch came that is better than one that was held for final."""
        for id in [id for id in self.settled if id not in self.where]:
            del self.settled[id]
            self.work["undone"] += 1
        self.spent = {coin: id for coin, id in self.spent.items() if id in self.settled}
        self.final = height - 1

    def _finalise(self, height: int) -> None:
        for node in self.tree.chain[self.final + 1 : max(height, self.final) + 1]:
            for id in node.ids:
                spends = self.held(id).spends
                if not spends or self.spent.setdefault(spends, id) == id:
                    self.settle(id)
        self.final = max(self.final, height)

    # votes

    def _rank(self, node: Node) -> tuple[bool, int]:
        height, justified = self.votes.latest
        return self.tree.above(node, height).hash == justified, node.work

    def _vote(self) -> None:
        """Vote for the head, once a height, from the last justified block before it."""
        head = self.tree.head
        source = head.parent
        while source is not None and source.hash not in self.votes.justified:
            source = source.parent
        if source is None or head.height <= self._voted[1] or source.height < self._voted[0]:
            return
        if self.net.peer_id in self.votes.authorities:
            self._voted = source.height, head.height
            vote = Vote(self.net.peer_id, source.hash, source.height, head.hash, head.height)
            self.work["signatures"] += 1
            vote = msgspec.structs.replace(vote, signature=self.net.identity.sign(VOTE, vote.said()))
            self.tell("vote", _encode(vote))
            self._count(vote, True)

    def _hear_vote(self, ctx: Context, body: bytes) -> None:
        try:
            vote = _vote(body)
            self._count(vote, _holds(body))
        except (msgspec.MsgspecError, LedgerError) as error:
            self.drop(type(error).__name__)
            return
        if vote.source_height > self.votes.latest[0] and vote.source not in self._asking:
            self._asking[vote.source] = None
            self.net.spawn(self._ask_votes(ctx.src, vote.source), f"{self.name} votes")

    def _count(self, vote: Vote, holds: bool) -> None:
        """Count a vote; ``holds``: whether it is signed. Raises LedgerError, NotAuthority."""
        if vote.voter not in self.votes.authorities:
            raise NotAuthority(f"vote of {vote.voter[:8]}: not an authority")
        self.work["verified"] += vote.voter != self.net.peer_id
        if not holds:
            raise LedgerError(f"vote of {vote.voter[:8]}: not signed by it")
        if self.votes.add(vote):
            move = self.tree.reconsider()
            if move is not None:
                self._move(move)
            self._finalise_voted()

    def _finalise_voted(self) -> None:
        final = self.tree.nodes.get(self.votes.finalised[1])
        if final is not None and self.tree.on_chain(final):
            self._finalise(final.height)

    async def _ask_votes(self, peer: PeerId, source: bytes) -> None:
        """Votes that were lost on the way, or said while this peer was cut off."""
        try:
            answer = await self.net.request(peer, f"{self.name}/votes", _encode(self.votes.latest[0]))
            for vote in _votes(answer):
                self._count(vote, _holds(_encode(vote)))
        except (NetworkError, LedgerError, msgspec.MsgspecError):
            self.drop("votes")
        finally:
            self._asking.pop(source, None)

    def _votes_for(self, _: Context, body: bytes) -> bytes:
        try:
            return _encode(self.votes.since(msgspec.msgpack.decode(body, type=int)))
        except msgspec.MsgspecError:
            self.drop("question")
            return _encode([])


def _part(node: Node, hasher: Hasher, place: int) -> Step:
    """The step through a block from its part number ``place``."""
    assert node.header is not None
    parts = [node.header.prev, node.header.records, node.header.history, node.header.beside(hasher)]
    return Step("B", b"".join(parts[:place]), b"".join(parts[place + 1 :]))


@lru_cache(maxsize=8192)
def _vote(body: bytes) -> Vote:
    """The vote of these bytes, read once for all peers of a process. Raises MsgspecError."""
    return _read_vote(body)


@lru_cache(maxsize=8192)
def _holds(body: bytes) -> bool:
    """Whether the vote of these bytes is signed by its voter."""
    vote = _vote(body)
    return verify(vote.voter, VOTE, vote.said(), vote.signature)


_encode = msgspec.msgpack.Encoder().encode
_block = msgspec.msgpack.Decoder(Block).decode
_blocks = msgspec.msgpack.Decoder(list[Block]).decode
_question = msgspec.msgpack.Decoder(tuple[bytes, list[bytes]]).decode
_read_vote = msgspec.msgpack.Decoder(Vote).decode
_votes = msgspec.msgpack.Decoder(list[Vote]).decode
