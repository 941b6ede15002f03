"""What goes into one message of an exchange, and what is known of the other side while it lasts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hubless.net.crdt.chain import FIRST, Op, Pair
from hubless.net.crdt.messages import Standing, Trade
from hubless.net.crdt.replica import Replica
from hubless.net.identity import SIGNATURE
from hubless.net.policy import LIMITS
from hubless.net.transports.transport import PeerId

TYPICAL = 300  # bytes of an operation with its signature
SIZES = 8  # bytes in which msgpack says how long an operation and its signature are


class Page:
    """Operations and evidence up to ``room`` bytes; the last to be taken may go beyond."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.ops: list[Op] = []
        self.accused: list[tuple[Op, Op]] = []

    def accuse(self, pair: tuple[Op, Op]) -> None:
        """Add evidence, if it has room."""
        if self._fits(pair):
            self.accused.append(pair)

    def add(self, chain: list[Op], start: int, end: int) -> None:
        """Add operations of a chain, as many as have room."""
        for seq in range(start, min(end, len(chain))):
            if not self._fits(chain[seq : seq + 1]):
                return
            self.ops.append(chain[seq])

    def evidence(self) -> list[Pair]:
        """The evidence as it travels."""
        return [(one.pair(), other.pair()) for one, other in self.accused]

    def _fits(self, ops: Iterable[Op]) -> bool:
        if self.room <= 0:
            return False
        self.room -= sum(len(op.body) + SIGNATURE + SIZES for op in ops)
        return True


class Far:
    """The other replica.

    heads:  how long its chains are, as it said and as it was told since
    cuts:   whom it has cut where
    forked: actors whose chains there and here do not fit; nothing is traded of them
    """

    def __init__(self, replica: Replica, theirs: Standing, members: Mapping[PeerId, None]) -> None:
        self.replica = replica
        self.heads: dict[PeerId, int] = {}
        self.forked: dict[PeerId, None] = {}
        for key, (length, head) in sorted(theirs.heads.items()):
            if (actor := key.hex()) in members:
                self.heads[actor] = length
                chain = replica.chains.get(actor, [])
                if 0 < length <= len(chain) and chain[length - 1].hash != head:
                    self.forked[actor] = None
        self.cuts = {key.hex(): cut for key, cut in sorted(theirs.cuts.items()) if key.hex() in members}

    def trade(self, room: int) -> tuple[Trade, Page]:
        """The next page to hand over, and what to ask for."""
        replica, page = self.replica, Page(room)
        for actor, pair in sorted(replica.evidence.items()):
            if pair[1].seq < self.cuts.get(actor, LIMITS.ops):
                page.accuse(pair)
        for actor, chain in sorted(replica.chains.items()):
            if actor not in self.forked:
                page.add(chain, self.heads.get(actor, 0), self.cuts.get(actor, LIMITS.ops))
        want = {}
        for actor, length in self.heads.items():
            chain = replica.chains.get(actor, [])
            if len(chain) < min(length, replica.cut(actor)) and actor not in self.forked:
                want[bytes.fromhex(actor)] = len(chain), chain[-1].hash if chain else FIRST
        doubt = [bytes.fromhex(actor) for actor, cut in self.cuts.items() if cut < replica.cut(actor)]
        return Trade([op.pair() for op in page.ops], page.evidence(), want, doubt, room), page

    def wanted(self, trade: Trade) -> int:
        """About how many bytes the answer would have without a limit."""
        return TYPICAL * sum(self.heads[key.hex()] - start for key, (start, _) in trade.want.items())

    def told(self, page: Page, forked: Iterable[bytes]) -> None:
        """Take in that a page arrived, and which chains did not fit."""
        for op in page.ops:
            self.heads[op.actor] = op.seq + 1
        for _, op in page.accused:
            self.cuts[op.actor] = op.seq
        self.cuts = {actor: cut for actor, cut in self.cuts.items() if cut >= self.replica.cut(actor)}  # without proof
        self.forked |= dict.fromkeys(actor.hex() for actor in forked if actor.hex() in self.heads)
