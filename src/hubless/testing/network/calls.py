"""Checks of what peers ask each other: answers, errors, limits, and what happens when somebody leaves."""

from __future__ import annotations

import asyncio

from hubless.errors import FrameTooLarge, PeerBusy, PeerUnreachable, RemoteError, RequestTimeout
from hubless.net.serving import Context
from hubless.testing.network.lab import Lab, Peer, fails, refused, until

RUN_BY_TASKS = "run each async handler in a task of its own, never inside the receive path"


async def echo(lab: Lab) -> None:
    """A request is answered with the handler's bytes, whatever they are; the handler knows who asks."""
    async with lab.peers(2) as (one, other):
        asked: list[Context] = []

        def inline(ctx: Context, body: bytes) -> bytes:
            asked.append(ctx)
            return body[::-1]

        async def task(_: Context, body: bytes) -> bytes:
            await other.net.sleep(0.001)
            return body

        other.net.serve("echo", inline)
        other.net.serve("later", task)
        for body in (b"", b"\x00\xff", bytes(range(256)) * 400):
            assert await one.net.request(other.id, "echo", body) == body[::-1], (
                "an answer is not what the inline handler returned; is it sent to whoever asked, with the asker's id?"
            )
            assert await one.net.request(other.id, "later", body) == body, "an answer is not what the task returned"
        assert [ctx.src for ctx in asked] == [one.id] * 3, "ctx.src must be the peer that the link or signature proves"
        assert one.net.stats["frames"] > 0, "count frames in stats"


async def nothing_returned(lab: Lab) -> None:
    """A handler that returns None answers a request with no bytes."""
    async with lab.peers(2) as (one, other):
        other.net.serve("none", lambda ctx, body: None)
        assert await one.net.request(other.id, "none", b"x") == b"", "None from a handler is an empty answer"


async def one_way(lab: Lab) -> None:
    """What is sent one way on a link that loses nothing arrives once, in order."""
    async with lab.peers(2) as (one, other):
        heard: list[bytes] = []
        other.net.serve("note", lambda ctx, body: heard.append(body))
        other.net.serve("ready", lambda ctx, body: b"")
        await one.net.request(other.id, "ready", b"")
        sent = [i.to_bytes(2, "big") for i in range(200)]
        for body in sent:
            one.net.send(other.id, "note", body)
        await until(other, lambda: len(heard) >= len(sent), "frames sent one way are lost on a link that loses nothing")
        assert heard == sent, "frames of one link overtake each other, or arrive twice; send small ones on one lane"


async def slow_handlers_in_parallel(lab: Lab) -> None:
    """Sixteen handlers that wait for each other are all running at once."""
    async with lab.peers(2) as (one, other):
        inside, all_in = 0, asyncio.Event()

        async def slow(_: Context, body: bytes) -> bytes:
            nonlocal inside
            inside += 1
            if inside == 16:
                all_in.set()
            await all_in.wait()
            return body

        other.net.serve("slow", slow)
        calls = (one.net.request(other.id, "slow", bytes([i])) for i in range(16))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers == [bytes([i]) for i in range(16)], f"only {inside} of 16 handlers ran at once; {RUN_BY_TASKS}"


async def nested_requests(lab: Lab) -> None:
    """A handler may ask the peer that asked it, eight deep."""
    async with lab.peers(2) as (one, other):

        async def nested(ctx: Context, body: bytes) -> bytes:
            depth = body[0]
            return bytes([depth]) + (await ctx.net.request(ctx.src, "nested", bytes([depth - 1])) if depth else b"")

        for peer in (one, other):
            peer.net.serve("nested", nested)
        answer = await one.net.request(other.id, "nested", b"\x08")
        assert answer == bytes(range(8, -1, -1)), f"nested answers came as {answer!r}; {RUN_BY_TASKS}"


async def many_in_flight(lab: Lab) -> None:
    """Three hundred calls at once each get their own answer."""
    async with lab.peers(2) as (one, other):

        async def square(_: Context, body: bytes) -> bytes:
            number = int.from_bytes(body, "big")
            await other.net.sleep((number * 7919 % 13) / 1000)
            return (number * number).to_bytes(8, "big")

        other.net.serve("square", square, limit=64, queue=256)
        calls = (one.net.request(other.id, "square", i.to_bytes(4, "big")) for i in range(300))
        answers = [int.from_bytes(answer, "big") for answer in await asyncio.gather(*calls)]
        assert answers == [i * i for i in range(300)], "answers are mixed up; match them by the id of the request"


async def large_bodies(lab: Lab) -> None:
    """A body near the largest frame passes, both ways, beside small calls."""
    async with lab.peers(2) as (one, other):
        other.net.serve("echo", lambda ctx, body: body)
        body = bytes(min(other.transport.max_frame, 4 << 20) - 4096)
        large, *small = await asyncio.gather(
            one.net.request(other.id, "echo", body, timeout=60, expects=len(body)),
            *(one.net.request(other.id, "echo", bytes([i])) for i in range(20)),
        )
        assert large == body, f"{len(large):,} of {len(body):,} bytes came back"
        assert small == [bytes([i]) for i in range(20)], "small calls beside a large one came back wrong"


async def oversize_frame(lab: Lab) -> None:
    """A body over the limit is refused where it is sent, and the link stays."""
    async with lab.peers(2) as (one, other):
        other.net.serve("echo", lambda ctx, body: body)
        await one.net.request(other.id, "echo", b"")
        body = bytes(one.transport.max_frame + 1)
        error = await fails(
            one.net.request(other.id, "echo", body), FrameTooLarge, "a request over max_frame must raise FrameTooLarge"
        )
        most = (f"{one.transport.max_frame:,}", str(one.transport.max_frame))
        assert any(size in str(error) for size in most), f"FrameTooLarge must name both sizes: {error}"
        with refused(FrameTooLarge, "send over max_frame must raise FrameTooLarge before anything is written"):
            one.net.send(other.id, "echo", body)
        with refused(FrameTooLarge, "the transport's send over max_frame must raise FrameTooLarge"):
            one.transport.send(other.id, body)
        assert await one.net.request(other.id, "echo", b"still") == b"still", "the link must outlive a refused frame"


async def unknown_protocol(lab: Lab) -> None:
    """Asking for what nobody serves is the asker's error, at once."""
    async with lab.peers(2) as (one, other):
        error = await fails(
            one.net.request(other.id, "no-such", b""), RemoteError, "an unknown protocol must raise RemoteError"
        )
        assert "no handler" in str(error), f'the error must say "no handler for ...": {error}'
        assert "no-such" in str(error), f"the error must name the protocol: {error}"


async def failing_handler(lab: Lab) -> None:
    """A handler that raises is a RemoteError with its text for the asker, and nothing else."""
    async with lab.peers(2) as (one, other):

        def inline(_: Context, body: bytes) -> bytes:
            raise ValueError("row nine is odd")

        async def task(_: Context, body: bytes) -> bytes:
            raise ValueError("row nine is odd")

        other.net.serve("inline", inline)
        other.net.serve("task", task)
        other.net.serve("echo", lambda ctx, body: body)
        for proto in ("inline", "task"):
            error = await fails(
                one.net.request(other.id, proto, b""), RemoteError, f"a failing {proto} handler must be a RemoteError"
            )
            assert "row nine is odd" in str(error), f"RemoteError must carry the handler's text: {error}"
        one.net.send(other.id, "inline", b"")
        assert await one.net.request(other.id, "echo", b"on") == b"on", "the peer must go on after a handler raised"


async def busy_queue(lab: Lab) -> None:
    """When handlers and queue are full the next one hears PeerBusy at once; what waited is still served."""
    async with lab.peers(2) as (one, other):
        release, ran = asyncio.Event(), 0

        async def held(_: Context, body: bytes) -> bytes:
            nonlocal ran
            ran += 1
            await release.wait()
            return body

        other.net.serve("held", held, limit=2, queue=3)
        first = [one.net.spawn(one.net.request(other.id, "held", bytes([i])), f"held {i}") for i in range(5)]
        await until(other, lambda: ran == 2, "of five calls the first two must run; limit is how many run at once")
        await one.net.sleep(0.3)
        await fails(
            one.net.request(other.id, "held", b"6"), PeerBusy, "beyond limit + queue a call must raise PeerBusy at once"
        )
        assert ran == 2, f"{ran} handlers ran with limit=2"
        release.set()
        assert await asyncio.gather(*first) == [bytes([i]) for i in range(5)], "what waited in the queue was not served"
        assert await one.net.request(other.id, "held", b"7") == b"7", "after the queue has drained calls pass again"


async def deadlines_travel(lab: Lab) -> None:
    """What waited in the queue past its asker's deadline is not run."""
    async with lab.peers(2) as (one, other):
        release, ran = asyncio.Event(), []

        async def held(_: Context, body: bytes) -> bytes:
            ran.append(body)
            await release.wait()
            return body

        other.net.serve("held", held, limit=1)
        first = one.net.spawn(one.net.request(other.id, "held", b"first"), "first")
        await until(other, lambda: ran == [b"first"], "the first call must run")
        await fails(
            one.net.request(other.id, "held", b"late", timeout=0.3), RequestTimeout, "no answer must be RequestTimeout"
        )
        await one.net.sleep(0.5)  # its deadline there begins when it arrives
        release.set()
        assert await first == b"first", "the first call was not answered"
        assert await one.net.request(other.id, "held", b"next") == b"next", "the queue does not go on"
        assert ran == [b"first", b"next"], f"ran {ran}: drop what waited past ttl_ms instead of running it"


async def late_reply(lab: Lab) -> None:
    """An answer after the timeout is counted and dropped, and does not answer a later request."""
    async with lab.peers(2) as (one, other):
        release = asyncio.Event()

        async def held(_: Context, body: bytes) -> bytes:
            await release.wait()
            return b"late"

        other.net.serve("held", held)
        other.net.serve("echo", lambda ctx, body: body)
        error = await fails(
            one.net.request(other.id, "held", b"", timeout=0.3), RequestTimeout, "no answer must be RequestTimeout"
        )
        assert isinstance(error, PeerUnreachable), "RequestTimeout is a PeerUnreachable"
        release.set()
        await until(
            one, lambda: one.net.stats["late reply"] == 1, 'count an answer that comes too late as "late reply"'
        )
        assert await one.net.request(other.id, "echo", b"now") == b"now", (
            "a late answer must not answer another request"
        )


async def peer_gone(lab: Lab) -> None:
    """Asking somebody who is not there raises PeerUnreachable, and in time."""
    async with lab.peers(1) as (one,):
        nobody = lab.identity().peer_id
        await fails(one.net.request(nobody, "echo", b""), PeerUnreachable, "a peer without an address is unreachable")
        other = await lab.start(lab.identity(), [one])
        await other.net.close()
        await fails(
            one.net.request(other.id, "echo", b"", timeout=3), PeerUnreachable, "a peer that has left is unreachable"
        )
        assert one.transport.reach(nobody) == "none", "reach() of a peer that is nowhere is none"


async def closed_during_request(lab: Lab) -> None:
    """When the asked peer closes, whoever waits for it hears so at once, not at the timeout."""
    async with lab.peers(2) as (one, other):
        started = asyncio.Event()

        async def forever(_: Context, body: bytes) -> bytes:
            started.set()
            await asyncio.Event().wait()
            return body

        other.net.serve("forever", forever)
        before = [one.net.spawn(_outcome(one, other), f"call {i}") for i in range(8)]
        await started.wait()
        begin = one.net.now()
        await other.net.close()
        outcomes = await asyncio.gather(*before)
        assert set(outcomes) == {"PeerUnreachable"}, (
            f"pending requests ended as {outcomes}: let on_lost fail those of the lost peer with PeerUnreachable"
        )
        assert one.net.now() - begin < 100, "pending requests waited for their timeout; on_lost was not called"


async def _outcome(one: Peer, other: Peer) -> str:
    try:
        return repr(await one.net.request(other.id, "forever", b"", timeout=600))
    except PeerUnreachable as error:
        return type(error).__name__


async def closing_oneself(lab: Lab) -> None:
    """Closing fails one's own pending requests, may be done twice, and leaves nothing running."""
    async with lab.peers(2) as (one, other):

        async def forever(_: Context, body: bytes) -> bytes:
            await asyncio.Event().wait()
            return body

        other.net.serve("forever", forever)
        call = asyncio.get_running_loop().create_task(_outcome(one, other))
        await other.net.sleep(0.5)
        await one.net.close()
        await one.net.close()
        assert await call == "PeerUnreachable", "close() must fail every pending request with PeerUnreachable"
        await fails(
            one.net.request(other.id, "forever", b""), PeerUnreachable, "a request after close() is PeerUnreachable"
        )


async def returning_peer(lab: Lab) -> None:
    """A peer that left and came back under its id is asked again without ado."""
    async with lab.peers(1) as (one,):
        identity = lab.identity()
        for turn in (b"first", b"second"):
            other = await lab.start(identity, [one])
            other.net.serve("turn", lambda ctx, body, turn=turn: turn)
            try:
                answer = await one.net.request(other.id, "turn", b"")
                assert answer == turn, (
                    f"the {turn.decode()} life of a peer answered {answer!r}; drop links that are lost"
                )
            finally:
                await other.net.close()
            await one.net.sleep(0.2)


async def lost_links(lab: Lab) -> None:
    """``on_lost`` names the peer whose last link is gone, once."""
    async with lab.peers(1) as (one,), lab.hostile(one) as raw:
        lost: list[str] = []
        raw.transport.on_lost(lost.append)
        await raw.say(one.id, b"\x00")
        await until(one, lambda: one.rejected() == 1, "a junk frame must be counted under reject:<reason>")
        await one.net.close()
        await until(one, lambda: lost, "on_lost must name a peer that closed; watch for the end of the connection")
        await one.transport.sleep(0.3)
        assert lost == [one.id], f"on_lost said {lost}: once a peer, when its last link is gone"


CALLS = (
    echo,
    nothing_returned,
    one_way,
    slow_handlers_in_parallel,
    nested_requests,
    many_in_flight,
    large_bodies,
    oversize_frame,
    unknown_protocol,
    failing_handler,
    busy_queue,
    deadlines_travel,
    late_reply,
    peer_gone,
    closed_during_request,
    closing_oneself,
    returning_peer,
    lost_links,
)
