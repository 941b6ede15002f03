"""One peer of the trial between routers: a process that answers, and asks another when it is told to.

It is given one JSON object: ``seed``, ``index``, ``host``; ``lattica``, addresses of libp2p relays, and ``known``, of
peers to dial at the start; ``carrier``, where our relay is, or "" for the relay itself. It says its id and addresses,
reads the other's with a number of ``calls``, and says how it reaches it and how many calls were answered right.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from hubless.errors import NetworkError, PeerUnreachable
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.policy import Timeouts
from hubless.net.serving import Context
from hubless.net.transports.either import EitherTransport
from hubless.net.transports.lattica import LatticaTransport
from hubless.net.transports.relayed import RelayedTransport
from hubless.net.transports.tcp import TcpTransport
from hubless.net.transports.transport import Transport

FRAMES, CARRIED = 4001, 4002  # ports of the two ways
CARRIER = 0  # the index of our relay
PUNCH = 10.0  # seconds that a hole may take, with the three attempts of libp2p
CALL = 10.0


def _echo(ctx: Context, body: bytes) -> bytes:
    return body[::-1]


async def _run(given: dict[str, Any]) -> None:
    identity, waits = Identity.derived(given["seed"], given["index"]), Timeouts(dial=PUNCH)
    carrier = {Identity.derived(given["seed"], CARRIER).peer_id: [given["carrier"]]} if given["carrier"] else {}
    tcp = TcpTransport(identity, given["host"], CARRIED)
    around = RelayedTransport(tcp, carrier, carry=not carrier)
    transport: Transport = around
    punching = None
    if carrier:
        punching = LatticaTransport(
            identity, given["host"], FRAMES, bootstraps=given["known"], relays=given["lattica"], timeouts=waits
        )
        transport = EitherTransport(punching, around)
    speech = _apart()
    async with Network(transport, identity) as net:
        net.serve("echo", _echo)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALL):
                while carrier and not around.slots:
                    await asyncio.sleep(0.02)
        print(json.dumps([net.peer_id, transport.addresses()]), file=speech, flush=True)
        loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := await lines.readline():
            peer, addresses, calls = json.loads(line)
            net.introduce(peer, addresses)
            if punching is not None:
                with contextlib.suppress(PeerUnreachable):
                    await punching.ready(peer)
            said: dict[str, Any] = {"right": 0, "refused": []}
            for number in range(calls):
                body = f"{number}: hello".encode()
                try:
                    said["right"] += await net.request(peer, "echo", body, CALL) == body[::-1]
                except NetworkError as error:
                    said["refused"].append(f"{type(error).__name__}: {error}")
            said |= {"reach": transport.reach(peer)}
            print(json.dumps(said), file=speech, flush=True)


def _apart() -> Any:
    """A way to speak that is ours alone: the SDK writes its log to standard output."""
    speech = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return speech


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.argv[1])))
