"""Which frames go out and which come in: when a frame is signed or sealed, and all that makes one be dropped."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from hubless.errors import IntegrityError, MessageError, PeerUnreachable
from hubless.net.envelope import (
    BOX,
    REQ,
    SIGNED,
    UNSIGNED,
    Envelope,
    decode,
    encode,
    signed_part,
)  # fmt: skip
from hubless.net.identity import ENVELOPE, Identity, seal, verify
from hubless.net.policy import KIB, Limits
from hubless.net.replay import ReplayGuard
from hubless.net.transports.transport import PeerId, Transport

EPHEMERAL = b"hubless/1/ephemeral"
LARGE = 64 * KIB  # from here on a body is copied once instead of twice


@lru_cache(65_536)
def key_of(peer: PeerId) -> bytes:
    """The public key that an id spells. Raises PeerUnreachable for what is no peer id."""
    try:
        return bytes.fromhex(peer)
    except ValueError:
        raise PeerUnreachable(f"{peer[:8]!r} is no peer id") from None


class Frames:
    """One peer's frames over one transport.

    A frame is signed when its link does not prove who sent it (a transport that is not ``authenticated``, or a
    relay), or always; it is sealed when a relay carries it.
    """

    def __init__(self, transport: Transport, identity: Identity, limits: Limits, *, always: bool) -> None:
        self.transport = transport
        self.identity = identity
        self.signing = always or not transport.authenticated
        self.guard = ReplayGuard(limits)
        self._me = identity.public
        self._reach = transport.reach

    def pack(self, kind: int, ident: int, peer: PeerId, proto: str, ttl: int, body: bytes) -> bytes:
        """The bytes that go to ``peer``. Raises PeerUnreachable for what is no peer id."""
        relayed = self._reach(peer) == "relayed"
        if not (self.signing or relayed):
            if len(body) < LARGE:
                return UNSIGNED + encode((kind, ident, self._me, key_of(peer), proto, ttl, body))
            head = encode((kind, ident, self._me, key_of(peer), proto, ttl, b""))[:-2]  # msgpack: bin 8, length 0
            return b"".join((UNSIGNED, head, b"\xc6", len(body).to_bytes(4, "big"), body))
        array = encode((kind, ident, self._me, key_of(peer), proto, ttl, body))
        frame = SIGNED + self.identity.sign(ENVELOPE, array) + array
        return BOX + seal(peer, frame, ephemeral=self._once(frame)) if relayed else frame

    def open(self, link: PeerId | None, frame: bytes) -> tuple[PeerId, bool, Envelope]:
        """Who says what, and whether it is signed, of a frame that came over a link of ``link``.

        Raises MessageError, whose text is the reason to drop it.
        """
        if frame[:1] == BOX:
            try:
                frame, link = self.identity.open(frame[1:]), None
            except IntegrityError:
                raise MessageError("seal") from None
        envelope, signature = decode(frame)
        if envelope[3] != self._me:
            raise MessageError("not for me")
        if signature is None:
            if link is None:
                raise MessageError("unsigned")
            if envelope[2] != key_of(link):
                raise MessageError("forged")
            return link, False, envelope
        src, now = envelope[2].hex(), self.transport.now()
        fresh = envelope[0] <= REQ  # answers carry the asker's id, and count once as it is
        if fresh and (reason := self.guard.refuses(src, envelope[1], now)):
            raise MessageError(reason)
        if not verify(src, ENVELOPE, signed_part(frame), signature):
            raise MessageError("signature")
        if fresh:
            self.guard.mark(src, envelope[1])
        return src, True, envelope

    def _once(self, frame: bytes) -> bytes:
        """A secret for one box, which follows from the frame, so that a simulation repeats itself.

        A signature that is shown to nobody: who has no key of this peer cannot tell it from chance.
        """
        return hashlib.sha256(self.identity.sign(EPHEMERAL, frame)).digest()
