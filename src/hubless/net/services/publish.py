"""Published messages: said once, signed by their origin, handed on from peer to peer until everybody has them.

Each new message goes to ``PUSH`` of about ``NEIGHBOURS`` neighbours. Every second a peer tells one of them the ids of
the last messages that it has, and the neighbour sends what is missing: so a message that links lost comes a second
later. An epidemic with anti-entropy (Demers et al. 1987, sections 1.3 and 1.4).
"""

from __future__ import annotations

import hashlib
from math import inf
from typing import TYPE_CHECKING, Annotated

import msgspec

from hubless.errors import ConfigError, FrameTooLarge, NetworkError, PeerBusy
from hubless.net.envelope import Ids, Key, Name, made_at
from hubless.net.identity import PUB, SIGNATURE, verify
from hubless.net.serving import Context, Served
from hubless.net.transports.transport import PeerId

if TYPE_CHECKING:
    from hubless.net.network import Network

PROTO = "hub/pub"
NEIGHBOURS, PUSH = 10, 6
LATEST = 64  # ids in a digest
OVERHEAD = 512  # bytes of a frame beside the body of a published message
PERIOD = 1.0  # seconds between two digests
CHANGE = 0.1  # chance that the neighbour of a digest is replaced


class Said(msgspec.Struct, array_like=True):
    """What the origin signs."""

    origin: Key
    id: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    topic: Name
    body: bytes


_said = msgspec.msgpack.Decoder(Said).decode
_digest = msgspec.msgpack.Decoder(Annotated[list[Key], msgspec.Meta(max_length=LATEST)]).decode
_encode = msgspec.msgpack.Encoder().encode


class Publisher:
    """One peer's part in publishing. It hands on all topics, whether or not anybody here listens.

    neighbours: peers to hand messages to, drawn from those that the network knows and changed slowly, so that one who
                has fallen silent is lost for a while only
    """

    def __init__(self, net: Network) -> None:
        self.net = net
        self.neighbours: list[PeerId] = []
        self.inboxes: dict[str, list[Served]] = {}
        self._ids = Ids()
        self._seen: dict[bytes, None] = {}
        self._kept: dict[bytes, bytes] = {}  # the last messages, as they travel
        net.serve(PROTO, self._take)
        net.on_lost(self._lost)
        net.spawn(self._tick(), "publishing")

    def subscribe(self, topic: str, inbox: Served) -> None:
        """Give what is published under ``topic`` to ``inbox``."""
        self.inboxes.setdefault(self._topic(topic), []).append(inbox)

    def publish(self, topic: str, body: bytes) -> bytes:
        """Say something to all who take part, oneself too if subscribed; returns the message's id [32 bytes].

        Raises ConfigError for a topic's name, FrameTooLarge.
        """
        net = self.net
        most = net.max_frame - OVERHEAD
        if len(body) > most:
            raise FrameTooLarge(f"a body of {len(body):,} bytes: at most {most:,} can be published; put a blob")
        said = _encode((net.identity.public, self._ids.next(net.now()), self._topic(topic), body))
        message = net.identity.sign(PUB, said) + said
        ident = hashlib.sha256(said).digest()
        self._mark(ident, message)
        self._push(message, None)
        self._deliver(_said(said))
        return ident

    def _topic(self, topic: str) -> str:
        if not 0 < len(topic) <= self.net.limits.name:
            raise ConfigError(f"publish.topic = {topic!r}: must have 1 to {self.net.limits.name} characters")
        return topic

    def _take(self, ctx: Context, body: bytes) -> None:
        if len(self.neighbours) < NEIGHBOURS and ctx.src not in self.neighbours:
            self.neighbours.append(ctx.src)
        if body[:1] == b"\0":
            self._hear(ctx.src, body[1:])
        elif body[:1] == b"\1":
            self._compare(ctx.src, body[1:])
        else:
            self._reject("malformed")

    def _hear(self, src: PeerId, message: bytes) -> None:
        """A message: seen before? too old? well signed? Only then it is marked as seen, given out and handed on."""
        signature, said = message[:SIGNATURE], message[SIGNATURE:]
        ident = hashlib.sha256(said).digest()
        if ident in self._seen:
            return
        try:
            fields = _said(said)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self._reject("malformed")
            return
        if abs(self.net.now() - made_at(fields.id)) > self.net.limits.age:
            self._reject("age")
        elif not verify(fields.origin.hex(), PUB, said, signature):
            self._reject("signature")
        else:
            self._mark(ident, message)
            self._push(message, src)
            self._deliver(fields)

    def _compare(self, src: PeerId, body: bytes) -> None:
        """A digest: send what is missing in it."""
        try:
            theirs = dict.fromkeys(_digest(body))
        except msgspec.MsgspecError:
            self._reject("malformed")
            return
        for ident, message in self._kept.items():
            if ident not in theirs:
                self._send(src, b"\0" + message)

    def _mark(self, ident: bytes, message: bytes) -> None:
        self._seen[ident] = None
        if len(self._seen) > self.net.limits.seen:
            del self._seen[next(iter(self._seen))]
        self._kept[ident] = message
        if len(self._kept) > LATEST:
            del self._kept[next(iter(self._kept))]

    def _push(self, message: bytes, source: PeerId | None) -> None:
        self._meet()
        others = [peer for peer in self.neighbours if peer != source]
        draw = self.net.rng.random
        while len(others) > PUSH:  # leaving a few out takes fewer draws than a sample of the rest
            del others[int(draw() * len(others))]
        body = b"\0" + message
        for peer in others:
            self._send(peer, body)

    def _deliver(self, said: Said) -> None:
        for inbox in self.inboxes.get(said.topic, ()):
            try:
                inbox.take(Context(said.origin.hex(), said.topic, inf, True, self.net), said.body)
            except PeerBusy:
                self.net.stats["busy"] += 1

    def _send(self, peer: PeerId, body: bytes) -> None:
        try:
            self.net.send(peer, PROTO, body)
        except NetworkError:
            self._lost(peer)

    def _meet(self) -> None:
        """Draw neighbours where some are missing."""
        missing = NEIGHBOURS - len(self.neighbours)
        if missing > 0:
            held = dict.fromkeys(self.neighbours)
            known = [info.peer for info in self.net.peers() if info.peer not in held and info.reach != "none"]
            self.neighbours += self.net.rng.sample(known, min(missing, len(known)))

    def _lost(self, peer: PeerId) -> None:
        if peer in self.neighbours:
            self.neighbours.remove(peer)

    def _reject(self, reason: str) -> None:
        self.net.stats[f"reject:pub {reason}"] += 1

    async def _tick(self) -> None:
        """Each second: one neighbour hears what is here; now and then another takes its place."""
        rng = self.net.rng
        while True:
            await self.net.sleep(PERIOD * (0.75 + rng.random() / 2))  # or all would speak at once
            self._meet()
            if self.neighbours:
                peer = rng.choice(self.neighbours)
                self._send(peer, b"\1" + _encode(list(self._kept)))
                if len(self.neighbours) >= NEIGHBOURS and rng.random() < CHANGE:
                    self._lost(peer)
