"""Who is there: heartbeats that travel by gossip, and a signed card of each peer with what it says of itself.

Each second a peer tells three others, drawn at random, what it knows: ``{peer: (heartbeat, version of its card)}``.
Whoever hears it sends what the other lacks and asks for what it lacks itself, and nothing else (push and pull). A peer
whose heartbeat has not grown for ``Timeouts.suspect`` periods is suspect, after ``Timeouts.dead`` it is dead: its card
is dropped, and a tombstone keeps others' old news from bringing it back. Heartbeats and cards are signed by the peer
they are of, so that nobody can keep a dead peer alive or bury a living one.

Source: van Renesse, Minsky and Hayden, "A Gossip-Style Failure Detection Service", 1998; the digests of card 32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hubless.errors import ConfigError, NetworkError
from hubless.net.envelope import Key
from hubless.net.identity import SIGNATURE, verify
from hubless.net.policy import KIB

if TYPE_CHECKING:
    from hubless.net.network import Network
    from hubless.net.serving import Context
    from hubless.net.transports.transport import PeerId

PROTO = "hub/member"
BEAT, CARD = b"hubless/1/beat", b"hubless/1/member"
FANOUT = 3
TOMBSTONE = 30  # periods for which a dead peer is remembered
MEMBERS = 4096  # that are remembered
DIGEST = 256  # members in one digest, of more a random part
LARGEST = 16 * KIB  # bytes of a card
LOST = 0.1  # chance that a peer which is dead, or was only introduced, is told too: so parted groups meet again

State = Literal["alive", "suspect", "dead", "unknown"]
Time = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]  # ms of Unix time: grows across restarts
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE, max_length=SIGNATURE)]
Address = Annotated[str, msgspec.Meta(max_length=200)]


class _Beat(msgspec.Struct, array_like=True):
    """That a peer lived at ``time``, with which card; ``left`` when that was the last of it."""

    peer: Key
    time: Time
    version: Time
    left: bool
    signature: Signature

    def said(self) -> bytes:
        return _encode((self.peer, self.time, self.version, self.left))


class _Card(msgspec.Struct, array_like=True):
    """What a peer says of itself."""

    peer: Key
    version: Time
    addresses: Annotated[list[Address], msgspec.Meta(max_length=8)]
    body: Annotated[bytes, msgspec.Meta(max_length=LARGEST)]
    signature: Signature

    def said(self) -> bytes:
        return _encode((self.peer, self.version, self.addresses, self.body))


class _Digest(msgspec.Struct, array_like=True, tag=0):
    entries: Annotated[list[tuple[Key, Time, Time]], msgspec.Meta(max_length=DIGEST)]
    whole: bool  # whether these are all members that the sender knows


class _News(msgspec.Struct, array_like=True, tag=1):
    beats: Annotated[list[_Beat], msgspec.Meta(max_length=DIGEST)]
    cards: Annotated[list[_Card], msgspec.Meta(max_length=DIGEST)]
    wanted: Annotated[list[tuple[Key, Time, Time]], msgspec.Meta(max_length=DIGEST)]  # what the sender has of these


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Digest | _News).decode


@dataclass
class _Member:
    beat: _Beat
    grown: float  # when its heartbeat last grew, in this peer's time
    card: _Card | None = None
    state: State = "alive"

    def spoken_of(self) -> bool:
        return self.state != "dead" or self.beat.left  # that one has left is news, that one is dead all find out

    def version(self) -> int:
        return self.card.version if self.card is not None else 0


@dataclass(frozen=True)
class Card:
    """What ``peer`` says of itself: ``body`` is what it announced last, ``version`` when (ms of Unix time)."""

    peer: PeerId
    version: int
    body: bytes


class Membership:
    """One peer's view of who is there. It begins with the peers that the network knows, and ends with ``leave``.

    card: what others are told of this peer, at most 16 KiB; ``announce`` changes it
    """

    def __init__(self, net: Network, card: bytes = b"") -> None:
        self.net = net
        self.period = net.timeouts.heartbeat
        self.members: dict[PeerId, _Member] = {}
        self._handlers: list[Callable[[PeerId, State], None]] = []
        self._version = 0
        self.announce(card)
        net.serve(PROTO, self._hear)
        self._ticking = net.spawn(self._tick(), "membership")

    def announce(self, card: bytes) -> None:
        """Change one's card. Raises ConfigError when it is too large."""
        if len(card) > LARGEST:
            raise ConfigError(f"membership.card = {len(card):,} bytes: at most {LARGEST:,}")
        self._version = max(self._version + 1, int(self.net.now() * 1000))
        mine = _Card(self.net.identity.public, self._version, self.net.transport.addresses()[:8], card, b"")
        mine.signature = self.net.identity.sign(CARD, mine.said())
        self.mine = mine
        self._pulse(left=False)

    async def leave(self) -> None:
        """Tell others that one goes, so that they need not find out."""
        self._ticking.cancel()
        self._pulse(left=True)
        for peer in self._some(2 * FANOUT):
            self._say(peer, _News([self.beat], [], []))

    def state(self, peer: PeerId) -> State:
        """What is known of a peer."""
        if peer == self.net.peer_id:
            return "alive"
        member = self.members.get(peer)
        return "unknown" if member is None else member.state

    def alive(self) -> list[PeerId]:
        """Peers that are not suspect or dead, sorted; oneself is not among them."""
        return sorted(peer for peer, member in self.members.items() if member.state == "alive")

    def cards(self) -> dict[PeerId, Card]:
        """Cards of all that are not dead, oneself among them, in the order of their ids."""
        held = {peer: member.card for peer, member in self.members.items() if member.state != "dead"}
        held[self.net.peer_id] = self.mine
        return {peer: Card(peer, card.version, card.body) for peer, card in sorted(held.items()) if card}

    def on_change(self, handler: Callable[[PeerId, State], None]) -> None:
        """Who hears when a peer's state changes; and of a peer that is alive, when its card does."""
        self._handlers.append(handler)

    # speaking

    def _pulse(self, left: bool) -> None:
        beat = _Beat(self.net.identity.public, int(self.net.now() * 1000), self._version, left, b"")
        beat.signature = self.net.identity.sign(BEAT, beat.said())
        self.beat = beat

    async def _tick(self) -> None:
        while True:
            self._pulse(left=False)
            self._age()
            digest = self._digest()
            for peer in self._some(FANOUT):
                self._say(peer, digest)
            await self.net.sleep(self.period * (0.9 + self.net.rng.random() / 5))

    def _some(self, count: int) -> list[PeerId]:
        """Whom to tell: members that are not dead; while there are few, and now and then, others that are known."""
        rng = self.net.rng
        living = [peer for peer, member in sorted(self.members.items()) if member.state != "dead"]
        chosen = rng.sample(living, min(count, len(living)))
        if len(living) < count or rng.random() < LOST:
            held = dict.fromkeys(living)
            known = dict.fromkeys([*self.members, *(info.peer for info in self.net.peers())])
            if others := sorted(peer for peer in known if peer not in held):
                chosen += rng.sample(others, min(len(others), max(1, count - len(chosen))))
        return chosen

    def _digest(self) -> _Digest:
        entries = [(m.beat.peer, m.beat.time, m.version()) for m in self.members.values() if m.spoken_of()]
        whole = len(entries) < DIGEST
        if not whole:
            entries = self.net.rng.sample(entries, DIGEST - 1)
        return _Digest([(self.beat.peer, self.beat.time, self.beat.version), *entries], whole)

    def _say(self, peer: PeerId, what: _Digest | _News) -> None:
        try:
            self.net.send(peer, PROTO, _encode(what))
        except NetworkError:
            self.net.stats["heartbeat lost"] += 1

    # hearing

    def _hear(self, ctx: Context, body: bytes) -> None:
        try:
            said = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.net.stats["reject:membership"] += 1
            return
        if isinstance(said, _Digest):
            self._answer(ctx.src, said.entries, whole=said.whole)
            return
        for beat in said.beats:
            self._take_beat(beat)
        for card in said.cards:
            self._take_card(card)
        if said.wanted:
            self._answer(ctx.src, said.wanted, whole=False, ask=False)

    def _answer(self, peer: PeerId, theirs: list[tuple[bytes, int, int]], *, whole: bool, ask: bool = True) -> None:
        """Send what the other lacks, and ask for what is missing here."""
        has = {key: (time, version) for key, time, version in theirs}
        news = _News([], [], [])
        mine = [(self.beat, self.mine)]
        mine += [(m.beat, m.card) for m in self.members.values() if m.spoken_of()]  # type: ignore[misc]
        held: dict[bytes, tuple[int, int]] = {}
        room = self.net.limits.answer
        for beat, card in mine:
            version = card.version if card is not None else 0
            held[beat.peer] = beat.time, version
            if beat.peer not in has and not whole:
                continue
            time, known = has.get(beat.peer, (0, 0))
            if len(news.beats) < DIGEST and beat.time > time and room > 0:
                news.beats.append(beat)
                room -= 150
            if card is not None and card.version > known and room > len(card.body):
                news.cards.append(card)
                room -= len(card.body) + 150
        if ask:
            for key, (time, version) in has.items():
                at, known = held.get(key, (0, 0))
                if (time > at or version > known) and not self._buried(key, time):
                    news.wanted.append((key, at, known))
        if news.beats or news.cards or news.wanted:
            self._say(peer, news)

    def _buried(self, key: bytes, time: int) -> bool:
        member = self.members.get(key.hex())
        return member is not None and member.state == "dead" and time <= member.beat.time

    def _take_beat(self, beat: _Beat) -> None:
        """A heartbeat: newer than the one here, of this time, and of who it says?"""
        net, peer = self.net, beat.peer.hex()
        now, age = net.now(), net.limits.age
        member = self.members.get(peer)
        if peer == net.peer_id or (member is not None and beat.time <= member.beat.time):
            return
        if abs(now - beat.time / 1000) > age:
            self._reject("age")
        elif member is None and beat.left:
            return
        elif member is None and len(self.members) >= MEMBERS:
            self._reject("crowded")
        elif not verify(peer, BEAT, beat.said(), beat.signature):
            self._reject("signature")
        else:
            if member is None:
                member = self.members[peer] = _Member(beat, now, state="unknown")
                net.introduce(peer)
            member.beat, member.grown = beat, now
            if beat.left:
                member.grown -= net.timeouts.dead * self.period
                member.card = None
            self._turn(peer, member, "dead" if beat.left else "alive")

    def _take_card(self, card: _Card) -> None:
        net, peer = self.net, card.peer.hex()
        member = self.members.get(peer)
        if member is None or member.state == "dead" or card.version <= member.version():
            return
        if card.version / 1000 > net.now() + net.limits.age:
            self._reject("age")
        elif not verify(peer, CARD, card.said(), card.signature):
            self._reject("signature")
        else:
            member.card = card
            net.introduce(peer, card.addresses)
            if member.state == "alive":
                self._tell(peer, "alive")

    def _age(self) -> None:
        """Whose heartbeat has not grown for long?"""
        now, waits = self.net.now(), self.net.timeouts
        for peer, member in list(self.members.items()):
            periods = (now - member.grown) / self.period
            if periods > waits.dead + TOMBSTONE:
                del self.members[peer]
            elif periods > waits.dead:
                member.card = None
                self._turn(peer, member, "dead")
            elif periods > waits.suspect:
                self._turn(peer, member, "suspect")

    def _turn(self, peer: PeerId, member: _Member, state: State) -> None:
        if member.state != state:
            member.state = state
            self._tell(peer, state)

    def _tell(self, peer: PeerId, state: State) -> None:
        for handler in self._handlers:
            handler(peer, state)

    def _reject(self, reason: str) -> None:
        self.net.stats[f"reject:membership {reason}"] += 1
