"""One replica of a document, without network or disk: chains of operations, what they fold to, and who is cut off.

What a replica holds depends on which operations and which evidence it has seen, never on their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping

from hubless.errors import IntegrityError, RecordRefused
from hubless.net.crdt.chain import FIRST, LATEST, Op, proof
from hubless.net.crdt.deltas import KINDS, Delta
from hubless.net.crdt.types import State
from hubless.net.crdt.values import encode
from hubless.net.identity import Identity
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

TAKEN, KNOWN = "taken", "known"  # what ``offer`` answers where all is well; other words are reasons for the counters
Standing = tuple[dict[bytes, tuple[int, bytes]], dict[bytes, int]]


class Replica:
    """Chains of operations and the states they fold to.

    chains:   the operations of each actor that are believed, from the first
    evidence: for each actor that told two stories, the two operations that prove it, of the lowest seq that is proven
    clock:    the highest Lamport time seen
    changes:  grows whenever something was taken or cut
    allowed:  whose operations are taken; None: everybody's
    keep:     gets each operation, and each pair of evidence, before it counts; when it raises, it does not count
    """

    def __init__(self, doc: str) -> None:
        self.doc = doc
        self.allowed: Mapping[PeerId, None] | None = None
        self.keep: Callable[[tuple[Op, ...]], None] = lambda ops: None
        self.chains: dict[PeerId, list[Op]] = {}
        self.evidence: dict[PeerId, tuple[Op, Op]] = {}
        self.clock = 0
        self.changes = 0
        self._states: dict[tuple[str, str], State] = {}
        self._stale: dict[tuple[str, str], None] = {}  # states that hold something that was cut
        self._digest = (-1, "")

    def state(self, kind: str, name: str) -> State:
        """A state as it stands; an empty one where nobody has written."""
        self._fold_again()
        state = self._states.get((kind, name))
        return KINDS[kind]() if state is None else state

    def kinds(self, name: str) -> list[str]:
        """The kinds of states of one name that somebody has written."""
        self._fold_again()
        return [kind for kind in KINDS if (kind, name) in self._states]

    def write(self, identity: Identity, delta: Delta) -> Op:
        """Sign and take an operation of one's own.

        Raises RecordRefused when it or the chain is too long, IntegrityError when this actor was cut.
        """
        chain = self.chains.get(identity.peer_id, [])
        if identity.peer_id in self.evidence:
            raise IntegrityError(f"{identity.peer_id[:8]} told two stories of {self.doc!r} and is no longer believed")
        if len(chain) >= LIMITS.ops:
            raise RecordRefused(f"{self.doc}: an actor writes at most {LIMITS.ops} operations")
        prev = chain[-1].hash if chain else FIRST
        op = Op.signed(identity, self.doc, len(chain), min(self.clock + 1, LATEST), delta, prev)
        self._take(op)
        return op

    def offer(self, op: Op) -> str:
        """Take an operation if it is new and in order; returns TAKEN, KNOWN, or why not."""
        chain = self.chains.get(op.actor, [])
        if op.doc != self.doc:
            return "other document"
        if self.allowed is not None and op.actor not in self.allowed:
            return "stranger"
        if self.knows(op):
            return KNOWN
        if op.seq >= self.cut(op.actor):
            return "cut"
        if op.seq > len(chain):
            return "gap"
        if not op.holds():
            return "signature"
        before = chain[op.seq - 1] if op.seq else None
        if op.seq < len(chain) or (before is not None and op.prev != before.hash):
            self.accuse(chain[min(op.seq, len(chain) - 1)], op)
            return "fork"
        if before is None and op.prev != FIRST:
            return "chain"
        if before is not None and op.lamport < before.lamport:
            return "clock"
        self._take(op)
        return TAKEN

    def accuse(self, one: Op, other: Op) -> bool:
        """Take evidence against an actor; returns whether it proves more than what is known."""
        cut = proof(one, other)
        if cut is None or one.doc != self.doc or cut >= self.cut(one.actor):
            return False
        if self.allowed is not None and one.actor not in self.allowed:
            return False
        if not (one.holds() and other.holds()):
            return False
        self.keep((one, other))
        self.changes += 1
        self.evidence[one.actor] = (one, other)
        chain = self.chains.get(one.actor, [])
        for op in chain[cut:]:
            self._stale[op.kind, op.name] = None
        del chain[cut:]
        self.offer(one)  # where this replica holds another story than both, it proves more
        return True

    def take(self, ops: tuple[Op, ...]) -> str:
        """``offer`` for one operation, ``accuse`` for two."""
        if len(ops) == 2:
            return TAKEN if self.accuse(*ops) else KNOWN
        return self.offer(*ops)

    def cut(self, actor: PeerId) -> int:
        """The seq from which on an actor is not believed."""
        pair = self.evidence.get(actor)
        return pair[1].seq if pair else LIMITS.ops

    def cuts(self) -> dict[PeerId, int]:
        """Everybody who is cut, and where."""
        return {actor: pair[1].seq for actor, pair in self.evidence.items()}

    def knows(self, op: Op) -> bool:
        """Whether an operation is here already."""
        chain = self.chains.get(op.actor, [])
        return op.seq < len(chain) and chain[op.seq].hash == op.hash

    def standing(self) -> Standing:
        """How far each chain goes and the hash of its last operation; and who is cut where."""
        heads = {bytes.fromhex(a): (len(ops), ops[-1].hash) for a, ops in sorted(self.chains.items()) if ops}
        return heads, {bytes.fromhex(actor): cut for actor, cut in sorted(self.cuts().items())}

    def canonical(self) -> bytes:
        """All states, length and last hash of each chain, and cuts: the same bytes where all of that is the same."""
        self._fold_again()
        states = [[*key, state.tree()] for key, state in sorted(self._states.items())]
        heads = {actor: (len(chain), chain[-1].hash) for actor, chain in self.chains.items() if chain}
        return encode([self.doc, states, heads, self.cuts()])

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex."""
        if self._digest[0] != self.changes:
            self._digest = (self.changes, hashlib.sha256(self.canonical()).hexdigest())
        return self._digest[1]

    def kept(self) -> Iterator[tuple[Op, ...]]:
        """All that ``keep`` would have to be given to make this replica again."""
        for actor in sorted(self.evidence):
            yield self.evidence[actor]
        for actor in sorted(self.chains):
            for op in self.chains[actor]:
                yield (op,)

    def _take(self, op: Op) -> None:
        self.keep((op,))
        self.changes += 1
        self.chains.setdefault(op.actor, []).append(op)
        self.clock = max(self.clock, op.lamport)
        if (op.kind, op.name) not in self._stale:
            self._fold([op])

    def _fold(self, ops: Iterable[Op]) -> None:
        for op in ops:
            state = self._states.get((op.kind, op.name))
            if state is None:
                state = self._states[op.kind, op.name] = KINDS[op.kind]()
            state.merge(op.delta)

    def _fold_again(self) -> None:
        """Make states anew that held what was cut; only when somebody looks."""
        if self._stale:
            stale, self._stale = self._stale, {}
            for key in stale:
                self._states.pop(key, None)
            for chain in self.chains.values():
                self._fold(op for op in chain if (op.kind, op.name) in stale)
