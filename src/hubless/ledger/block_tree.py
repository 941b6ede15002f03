"""Blocks and their forks: a tree, of which the branch with the most work is the chain.

Not the longest: a branch of many easy blocks must not beat one of few hard ones. A header commits to the records of
its block and to all blocks before it, so that a proof from a record to a late block is of logarithmic length (as in
Bünz et al., "FlyClient", 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from hubless.errors import LedgerError, UnknownParent
from hubless.ledger import merkle
from hubless.ledger.merkle import Frontier
from hubless.ledger.suites import BLOCK, META, Hasher


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a block says of itself.

    prev, records, history: digests of the block before, of its records, and of all blocks before
    height: blocks before it;  time: of its sealer's clock, seconds
    bits:   difficulty, as leading zero bits of its hash;  nonce: what made the hash so
    sealer: who made it
    """

    prev: bytes
    records: bytes
    history: bytes
    height: int
    time: float
    bits: int
    nonce: int
    sealer: str

    def digest(self, hasher: Hasher) -> bytes:
        """The block's digest [32]."""
        meta = hasher(META, _encode((self.height, self.time, self.bits, self.nonce, self.sealer)))
        return hasher(BLOCK, self.prev, self.records, self.history, meta)

    def beside(self, hasher: Hasher) -> bytes:
        """The digest of what is no digest in it."""
        return hasher(META, _encode((self.height, self.time, self.bits, self.nonce, self.sealer)))


@dataclass(frozen=True, eq=False)
class Node:
    """A block in the tree: ``work`` is that of its whole branch, ``frontier`` the history including itself."""

    hash: bytes
    header: Header | None
    parent: Node | None
    height: int
    work: int
    frontier: Frontier
    ids: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Move:
    """The chain went from one branch to another: blocks that left it and that joined it, lowest first."""

    left: list[Node]
    joined: list[Node]


class BlockTree:
    """All blocks that are known, and the chain among their branches.

    rank: what makes a branch better, seen from its last block; by default its work. Equal ones stay as they came.
    """

    def __init__(self, name: str, hasher: Hasher, rank: Callable[[Node], object] | None = None) -> None:
        self.hasher = hasher
        self.rank: Callable[[Node], object] = rank or (lambda node: node.work)
        first = hasher(META, name.encode())
        genesis = Node(first, None, None, 0, 0, Frontier().append(hasher, first))
        self.nodes: dict[bytes, Node] = {first: genesis}
        self.leaves: dict[bytes, Node] = {first: genesis}
        self.chain: list[Node] = [genesis]

    @property
    def head(self) -> Node:
        """The last block of the chain."""
        return self.chain[-1]

    def draft(self, parent: Node, ids: Sequence[bytes], time: float, bits: int, sealer: str) -> Header:
        """The header of a new block on ``parent``, not yet sealed."""
        records, history = merkle.root(self.hasher, ids), parent.frontier.root(self.hasher)
        return Header(parent.hash, records, history, parent.height + 1, time, bits, 0, sealer)

    def add(self, header: Header, ids: Sequence[bytes]) -> Move | None:
        """Take a block in; how the chain moved, if it did.

        Raises UnknownParent, and LedgerError for a header that does not fit its parent or its records.
        """
        key = header.digest(self.hasher)
        if key in self.nodes:
            return None
        parent = self.nodes.get(header.prev)
        if parent is None:
            text = f"block {key.hex()[:8]} stands on {header.prev.hex()[:8]}, which is not here"
            raise UnknownParent(text, header.prev)
        if header.height != parent.height + 1 or header.history != parent.frontier.root(self.hasher):
            raise LedgerError(f"block {key.hex()[:8]}: says another height or history than its parent's")
        if header.records != merkle.root(self.hasher, ids):
            raise LedgerError(f"block {key.hex()[:8]}: its records are not those of its header")
        work = parent.work + (1 << header.bits)
        frontier = parent.frontier.append(self.hasher, key)
        node = Node(key, header, parent, header.height, work, frontier, tuple(ids))
        self.nodes[key] = node
        self.leaves.pop(parent.hash, None)
        self.leaves[key] = node
        return self._follow(node)

    def reconsider(self) -> Move | None:
        """Choose again among all branches, as ranks have changed."""
        best = self.head
        for leaf in self.leaves.values():
            if self.rank(leaf) > self.rank(best):  # type: ignore[operator]
                best = leaf
        return self._follow(best)

    def on_chain(self, node: Node) -> bool:
        """Whether a block is on the chain."""
        return node.height < len(self.chain) and self.chain[node.height] is node

    def above(self, node: Node, height: int) -> Node:
        """The ancestor of a block at a height; itself when it is not higher."""
        while node.height > height and node.parent is not None:
            node = self.chain[height] if self.on_chain(node) else node.parent
        return node

    def between(self, low: bytes, high: bytes) -> list[bytes] | None:
        """Hashes of the blocks between two on one branch; None when they are not known to be on one."""
        bottom, node, found = self.nodes.get(low), self.nodes.get(high), []
        while bottom is not None and node is not None and node.height > bottom.height:
            node = node.parent
            found.append(node.hash if node else b"")
        return found[:-1] if node is bottom and found else None

    def _follow(self, node: Node) -> Move | None:
        if node is self.head or not self.rank(node) > self.rank(self.head):  # type: ignore[operator]
            return None
        joined: list[Node] = []
        step: Node | None = node
        while step is not None and not self.on_chain(step):
            joined.append(step)
            step = step.parent
        fork = step.height + 1 if step else 0
        left = self.chain[fork:]
        joined.reverse()
        self.chain[fork:] = joined
        return Move(left, joined)


_encode = msgspec.msgpack.Encoder().encode
