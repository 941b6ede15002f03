"""Anti-entropy: two replicas find out what each lacks and hand it over, operations and evidence, both ways.

First they compare how they stand (``hello``), then trade pages of at most ``limits.page`` bytes until nothing is
missing. Lengths alone would hide two stories of one length, so the hash of each last operation goes with them; where
two chains do not fit, ``where`` finds the first operation in which they differ, and that one proves it. What does not
decode or hold is dropped and counted.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from hubless.errors import CodecError, ConfigError, IntegrityError, RemoteError, RequestTimeout
from hubless.net.crdt.chain import FIRST, Op, Pair, Signed
from hubless.net.crdt.messages import (
    SPREAD,
    Hello,
    Refused,
    Same,
    Standing,
    There,
    Trade,
    Traded,
    Where,
    read_answer,
    read_question,
)
from hubless.net.crdt.pages import Far, Page
from hubless.net.crdt.replica import KNOWN, TAKEN, Replica
from hubless.net.crdt.values import wire
from hubless.net.policy import KIB, LIMITS
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context

log = logging.getLogger("hubless.net")
INLINE = 16  # operations that are read and checked at once; more go to a thread
AGAIN = 4  # comparisons in one exchange
FIRST_PAGE, LEAST = 64 * KIB, 16 * KIB  # bytes of the first page to a peer; they double while the answer is in time
OVERHEAD = 1024  # bytes of a message beside its operations
TEXT = 100  # most characters of a reason that are repeated
Reply = TypeVar("Reply", Standing, Traded, There)


class _Patience(NamedTuple):
    """Seconds for each question, and when all have to be answered."""

    each: float
    end: float


class Exchange:
    """Both sides of the exchanges of one replica.

    members: who may take part, asked anew for each message
    durable: has one's own operations on disk before they leave
    counts:  what was dropped, by reason
    """

    def __init__(
        self,
        net: Network,
        proto: str,
        replica: Replica,
        members: Callable[[], Mapping[PeerId, None]],
        durable: Callable[[], Awaitable[None]],
        counts: Counter[str],
    ) -> None:
        self.net, self.proto, self.replica = net, proto, replica
        self.members, self.durable, self.counts = members, durable, counts
        self.page = min(net.limits.page, net.max_frame // 4)
        self._rooms: dict[PeerId, int] = {}  # bytes of a page for each peer that was asked
        if self.page < 2 * LIMITS.op + OVERHEAD:
            raise ConfigError(f"max_frame = {net.max_frame}: a document needs at least {8 * LIMITS.op + 4 * OVERHEAD}")

    # asking

    async def run(self, peer: PeerId, timeout: float) -> None:
        """Exchange with one peer; each question may take ``timeout`` seconds and is asked once more.

        All together may take ``limits.pages`` times as long, so that nobody holds others by answering slowly.

        Raises NetworkError when the peer does not answer, refuses, or answers what cannot be read.
        """
        if peer not in self.members():
            raise RemoteError(f"{peer[:8]} is no member of {self.replica.doc!r}")
        patience = _Patience(timeout, self.net.now() + timeout * self.net.limits.pages)
        for _ in range(AGAIN):
            if not await self._compare(peer, patience):
                return

    async def _compare(self, peer: PeerId, timeout: _Patience) -> bool:
        """Hand over what is missing; returns whether evidence moved, after which there may be more to say."""
        theirs = await self._ask(peer, Hello(_digest(self.replica)), Standing, timeout)
        if theirs is None:
            return False
        far = Far(self.replica, theirs, self.members())
        before = self.replica.cuts()
        for _ in range(self.net.limits.pages):
            room = self._rooms.get(peer, FIRST_PAGE)
            trade, page = far.trade(room)
            if not (trade.ops or trade.evidence or trade.want or trade.doubt):
                break
            try:
                traded = await self._ask(peer, trade, Traded, timeout, expects=min(room, far.wanted(trade)))
            except RequestTimeout:
                self._rooms[peer] = max(LEAST, room // 4)
                raise
            if traded is None:
                break
            self._rooms[peer] = min(self.page, 2 * room)
            taken = await self._take(traded.ops, traded.evidence)
            far.told(page, traded.forked)
            if not (taken or trade.ops or trade.evidence):
                break
        if self.replica.cuts() == before:
            for actor in far.forked:
                await self._settle(peer, actor, far.heads.get(actor, 0), timeout)
        return self.replica.cuts() != before

    async def _settle(self, peer: PeerId, actor: PeerId, length: int, timeout: _Patience) -> None:
        """Find the first operation in which two chains differ, and show ours: who holds both has the proof."""
        chain = self.replica.chains.get(actor, [])
        low, high = 0, min(len(chain), length) - 1
        while 0 <= low <= high:
            step = -(-(high - low + 1) // SPREAD)
            seqs = list(range(high, low - 1, -step))[::-1]
            there = await self._ask(peer, Where(bytes.fromhex(actor), seqs), There, timeout)
            if there is None or len(there.hashes) != len(seqs) or high >= len(chain):
                return
            differ = [i for i, seq in enumerate(seqs) if there.hashes[i] != chain[seq].hash]
            if not differ:
                return
            low, high = seqs[differ[0] - 1] + 1 if differ[0] else low, seqs[differ[0]]
            if step == 1:
                break
        if 0 <= high < len(chain):
            shown = Trade([chain[high].pair()], room=self.page)
            traded = await self._ask(peer, shown, Traded, timeout)
            if traded is not None:
                await self._take(traded.ops, traded.evidence)

    async def _ask(
        self, peer: PeerId, question: Hello | Trade | Where, kind: type[Reply], timeout: _Patience, *, expects: int = 0
    ) -> Reply | None:
        """The answer, or None for Same. Raises NetworkError."""
        if isinstance(question, Trade) and question.ops:
            await self.durable()
        if self.net.now() > timeout.end:
            raise RequestTimeout(f"{peer[:8]} answers, but an exchange of {self.replica.doc!r} with it does not end")
        body = wire(question)
        try:
            data = await self.net.request(peer, self.proto, body, timeout.each, expects=expects)
        except RequestTimeout:
            data = await self.net.request(peer, self.proto, body, timeout.each, expects=expects)
        try:
            answer = read_answer(data) if len(data) <= 2 * self.page + OVERHEAD else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            answer = None
        if isinstance(answer, Refused):
            raise RemoteError(f"{peer[:8]} refused an exchange of {self.replica.doc!r}: {answer.reason[:TEXT]}")
        if isinstance(answer, Same) and isinstance(question, Hello):
            return None
        if not isinstance(answer, kind):
            self.counts["malformed"] += 1
            raise IntegrityError(f"{peer[:8]} answered an exchange of {self.replica.doc!r} with other bytes")
        return answer

    # answering

    async def answer(self, ctx: Context, body: bytes) -> bytes:
        """The handler of the protocol."""
        if ctx.src not in self.members():
            return self._refuse("stranger")
        if len(body) > 2 * self.page + OVERHEAD:
            return self._refuse("oversize")
        try:
            question = read_question(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._refuse("malformed")
        if isinstance(question, Hello):
            same = question.digest == _digest(self.replica)
            return wire(Same() if same else Standing(*self.replica.standing()))
        if isinstance(question, Where):
            chain = self.replica.chains.get(question.actor.hex(), [])
            return wire(There([chain[seq].hash if seq < len(chain) else FIRST for seq in question.seqs]))
        return wire(await self._trade(question))

    def _refuse(self, reason: str) -> bytes:
        self.counts[reason] += 1
        return wire(Refused(reason))

    async def _trade(self, trade: Trade) -> Traded:
        before = self.replica.cuts()
        await self._take(trade.ops, trade.evidence)
        page = Page(min(trade.room, self.page))
        for actor, pair in sorted(self.replica.evidence.items()):
            new = before.get(actor) != pair[1].seq and (pair[0].pair(), pair[1].pair()) not in trade.evidence
            if new or bytes.fromhex(actor) in trade.doubt:
                page.accuse(pair)
        forked = []
        for key, (start, head) in sorted(trade.want.items()):
            chain = self.replica.chains.get(key.hex(), [])
            if 0 < start <= len(chain) and chain[start - 1].hash != head:
                forked.append(key)
            else:
                page.add(chain, start, len(chain))
        if page.ops:
            await self.durable()
        return Traded([op.pair() for op in page.ops], page.evidence(), forked)

    # both

    async def _take(self, signed: list[Signed], pairs: list[Pair]) -> int:
        """Take what is new and holds; returns how much that was. The first forgery ends it."""
        many = len(signed) > INLINE
        try:
            accused = [(Op.read(*one), Op.read(*other)) for one, other in pairs]
            ops = await self.net.run(_read, signed) if many else _read(signed)
        except CodecError:
            self.counts["malformed"] += 1
            return 0
        ops = [op for op in ops if not self.replica.knows(op)]
        if many:
            await self.net.run(_check, ops)
        taken = 0
        try:
            for one, other in accused:
                if not (one.holds() and other.holds()):
                    self.counts["signature"] += 1
                    return taken
                taken += self.replica.accuse(one, other)
            for op in ops:
                word = self.replica.offer(op)
                taken += word == TAKEN
                if word not in (TAKEN, KNOWN):
                    self.counts[word] += 1
                if word == "signature":
                    break
        except OSError as error:
            self.counts["not kept"] += 1
            log.warning("%s: %s is not kept: %s", self.net.peer_id[:8], self.replica.doc, error)
        return taken


def _digest(replica: Replica) -> bytes:
    return hashlib.sha256(wire(replica.standing())).digest()


def _read(signed: list[Signed]) -> list[Op]:
    return [Op.read(*pair) for pair in signed]


def _check(ops: list[Op]) -> None:
    """Verify in a thread; the first that does not hold ends it, so that forgeries cost their sender a message each."""
    for op in ops:
        if not op.holds():
            return
