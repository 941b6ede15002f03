"""Checks of what a peer does with bytes that nobody honest sends: it drops and counts them, and goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from hubless.errors import RequestTimeout
from hubless.net.envelope import COUNTER, ERR, REQ, RES, SEND, VERSION
from hubless.net.identity import ENVELOPE, Identity
from hubless.net.serving import Context
from hubless.net.transports.transport import PeerId
from hubless.testing.network.lab import Lab, Peer, Raw, fails, until

DROP = "drop it, count it under reject:<reason>, and raise nothing in the receive path"


def ident(now: float, counter: int = 0) -> int:
    """An id of a frame made at ``now``."""
    return int(now * 1000) << COUNTER | counter


def array(kind: int, number: int, src: PeerId, dst: PeerId, body: bytes, proto: str = "note", ttl: int = 0) -> bytes:
    """An envelope without flag and signature."""
    return msgspec.msgpack.encode([kind, number, bytes.fromhex(src), bytes.fromhex(dst), proto, ttl, body])


def signed(identity: Identity, envelope: bytes, version: int = VERSION) -> bytes:
    """A frame with a signature that holds."""
    return bytes([version << 1 | 1]) + identity.sign(ENVELOPE, envelope) + envelope


def unsigned(envelope: bytes, version: int = VERSION) -> bytes:
    """A frame without a signature."""
    return bytes([version << 1]) + envelope


class Victim:
    """A peer with a handler that remembers what got through."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.heard: list[tuple[PeerId, bytes]] = []
        peer.net.serve("note", self.note)

    def note(self, ctx: Context, body: bytes) -> bytes:
        """Remember it."""
        self.heard.append((ctx.src, body))
        return body

    async def drops(self, raw: Raw, frames: list[bytes], what: str) -> None:
        """Assert that none of some frames gets through, each is counted, and an honest one still does."""
        before, heard = self.peer.rejected(), list(self.heard)
        for frame in frames:
            await raw.say(self.peer.id, frame)
        await until(self.peer, lambda: self.peer.rejected() - before >= len(frames), f"{what} was not counted: {DROP}")
        assert self.heard == heard, f"{what} reached a handler: {DROP}"
        await self.takes(raw, what)

    async def takes(self, raw: Raw, what: str) -> None:
        """Assert that a frame in order gets through."""
        body = f"after {what}".encode()
        number = ident(raw.transport.now(), len(self.heard) + 1000)
        await raw.say(self.peer.id, signed(raw.identity, array(SEND, number, raw.id, self.peer.id, body)))
        await until(
            self.peer, lambda: (raw.id, body) in self.heard, f"after {what} an honest frame does not get through"
        )


async def forged_signature(lab: Lab) -> None:
    """A signature by another key, for another purpose or over other bytes does not hold."""
    async with lab.peers(2) as (one, bystander), lab.hostile(one) as raw:
        victim, now = Victim(one), raw.transport.now()
        claims = array(SEND, ident(now, 1), bystander.id, one.id, b"by another")
        good = array(SEND, ident(now, 2), raw.id, one.id, b"mine")
        changed = bytearray(signed(raw.identity, good))
        changed[-1] ^= 1
        other_purpose = bytes([VERSION << 1 | 1]) + raw.identity.sign(b"hubless/1/record", good) + good
        await victim.drops(
            raw, [signed(raw.identity, claims), bytes(changed), other_purpose], "a frame with a forged signature"
        )


async def claimed_source(lab: Lab) -> None:
    """An unsigned frame counts only from the peer that the link proves."""
    async with lab.peers(2) as (one, bystander), lab.hostile(one) as raw:
        victim, now = Victim(one), raw.transport.now()
        lie = unsigned(array(SEND, ident(now, 1), bystander.id, one.id, b"by another"))
        own = unsigned(array(SEND, ident(now, 2), raw.id, one.id, b"mine"))
        await victim.drops(raw, [lie], "an unsigned frame in another's name")
        if raw.transport.authenticated:
            await raw.say(one.id, own)
            await until(
                one, lambda: (raw.id, b"mine") in victim.heard, "the link proves its peer: take unsigned frames"
            )
        else:
            await victim.drops(raw, [own], "an unsigned frame on a link that proves nobody")


async def replayed_frame(lab: Lab) -> None:
    """A signed frame is taken once, and only while it is fresh."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        victim, now = Victim(one), raw.transport.now()
        frame = signed(raw.identity, array(SEND, ident(now, 1), raw.id, one.id, b"once"))
        await raw.say(one.id, frame)
        await until(one, lambda: victim.heard, "a signed frame does not get through")
        await victim.drops(raw, [frame], "a replayed frame")
        aged = [array(SEND, ident(now + off, 3), raw.id, one.id, b"aged") for off in (-3600, -130, 130, 3600)]
        await victim.drops(raw, [signed(raw.identity, each) for each in aged], "a frame from another time")


async def below_the_window(lab: Lab) -> None:
    """An id below the last 1,024 of its sender is as good as replayed."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        victim, now = Victim(one), raw.transport.now()
        for counter in range(10, 1100):
            await raw.say(one.id, signed(raw.identity, array(SEND, ident(now, counter), raw.id, one.id, b"")))
        await until(one, lambda: len(victim.heard) == 1090, "frames with rising ids do not get through")
        old = signed(raw.identity, array(SEND, ident(now, 1), raw.id, one.id, b"old"))
        await victim.drops(raw, [old], "a frame below the window of replays")


async def another_destination(lab: Lab) -> None:
    """A frame for somebody else is not taken, however well it is signed."""
    async with lab.peers(2) as (one, bystander), lab.hostile(one) as raw:
        number = ident(raw.transport.now(), 1)
        frame = signed(raw.identity, array(SEND, number, raw.id, bystander.id, b"for another"))
        await Victim(one).drops(raw, [frame], "a frame for another peer")


async def truncated_frames(lab: Lab) -> None:
    """No beginning of a frame is taken for a frame."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        number = ident(raw.transport.now(), 1)
        envelope = array(REQ, number, raw.id, one.id, b"body")
        frames = [frame[:end] for frame in (unsigned(envelope), signed(raw.identity, envelope)) for end in _cuts(frame)]
        await Victim(one).drops(raw, frames, "a truncated frame")


def _cuts(frame: bytes) -> Iterator[int]:
    return iter(range(1, len(frame), 7))


async def junk_frames(lab: Lab) -> None:
    """Random bytes, other versions, wrong types and deep nesting raise nothing."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        draw = random.Random("junk")
        pack = msgspec.msgpack.encode
        src, dst, number = bytes.fromhex(raw.id), bytes.fromhex(one.id), ident(raw.transport.now(), 1)
        good: list[object] = [SEND, number, src, dst, "note", 0, b"x"]
        wrong: list[object] = [
            None, {}, [], 7, "text", [SEND], [*good, 1], {"kind": SEND}, [good], [9, *good[1:]], [-1, *good[1:]],
            [SEND, "now", *good[2:]], [SEND, -5, *good[2:]], [SEND, 2**64 - 1, *good[2:]],
            [SEND, number, b"short", *good[3:]], [SEND, number, raw.id, *good[3:]],
            [*good[:4], "n" * 5000, 0, b"x"], [*good[:4], b"note", 0, b"x"], [*good[:5], -1, b"x"],
            [*good[:5], 2**63, b"x"], [*good[:6], "text"], [*good[:6], [b"x"]],
        ]  # fmt: skip
        frames = [unsigned(pack(each)) for each in wrong]
        frames += [signed(raw.identity, pack(each)) for each in wrong]
        frames += [draw.randbytes(size) for size in (1, 2, 3, 10, 65, 66, 100, 1000, 5000)]
        frames += [unsigned(b"\x91" * 2000), unsigned(b"\xdd\xff\xff\xff\xff"), unsigned(b"\xc6\xff\xff\xff\xff")]
        frames += [bytes([flag]) + pack(good) for flag in (0, 1, 4, 5, 0x7F, 0x80, 0xFF)]
        await Victim(one).drops(raw, frames, "a junk frame")


async def reply_from_another(lab: Lab) -> None:
    """An answer counts only from the peer that was asked, once, while it is awaited."""
    async with lab.peers(2) as (one, bystander), lab.hostile(one) as asked, lab.hostile(one) as liar:
        call = one.net.spawn(one.net.request(asked.id, "note", b""), "asks")
        await until(one, lambda: asked.heard, "the request does not arrive")
        frame = asked.heard[0]
        number = msgspec.msgpack.decode(frame[65:] if frame[0] & 1 else frame[1:])[1]

        async def answer(who: Raw, src: PeerId, body: bytes, kind: int = RES) -> None:
            await who.say(one.id, signed(who.identity, array(kind, number, src, one.id, body, "note")))

        def dropped() -> int:
            return one.rejected() + one.net.stats["late reply"]

        before = dropped()
        for kind in (RES, ERR):
            await answer(liar, liar.id, b"false", kind)
            await answer(liar, asked.id, b"false", kind)
            await answer(liar, bystander.id, b"false", kind)
        await until(
            one, lambda: dropped() - before >= 6, f"an answer by another than was asked was not counted: {DROP}"
        )
        assert not call.done(), "an answer of a peer that was not asked was taken; compare src with whom was asked"
        await answer(asked, asked.id, b"true")
        assert await call == b"true", "the answer of the peer that was asked was not taken"
        await answer(asked, asked.id, b"once more")
        await until(one, lambda: dropped() - before >= 7, 'a second answer was not counted; call it "late reply"')


async def unheard_replies(lab: Lab) -> None:
    """Answers to nothing are counted and dropped."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        victim = Victim(one)
        before = one.rejected() + one.net.stats["late reply"]
        for kind in (RES, ERR):
            envelope = array(kind, ident(raw.transport.now(), 5), raw.id, one.id, b"x")
            await raw.say(one.id, signed(raw.identity, envelope))
        await until(
            one,
            lambda: one.rejected() + one.net.stats["late reply"] - before >= 2,
            f"an answer to nothing was not counted: {DROP}",
        )
        await victim.takes(raw, "answers to nothing")


async def silent_peer(lab: Lab) -> None:
    """A peer that takes frames and never answers costs its asker the timeout, and no more."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        await fails(
            one.net.request(raw.id, "note", b"", timeout=0.5),
            RequestTimeout,
            "no answer in time must be RequestTimeout",
        )
        await until(one, lambda: raw.heard, "the request was not even sent")


HOSTILE = (
    forged_signature,
    claimed_source,
    replayed_frame,
    below_the_window,
    another_destination,
    truncated_frames,
    junk_frames,
    reply_from_another,
    unheard_replies,
    silent_peer,
)
