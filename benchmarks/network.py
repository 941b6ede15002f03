"""Calls from one process to another on loopback: plain asyncio streams, this network over TCP, and the lattica SDK.

    python benchmarks/network.py [--passes 3] [--calls 3000] [--lattica-python PATH] [--json network.json]

A call sends 128 bytes or 1 KB and gets them back: the median of one at a time, and calls a second with 64 in flight.
MB/s are those of 10 MB (10^7 bytes) that are answered with two. Each figure is the best of the passes; ways take turns.
Plain streams carry one call at a time each, so 64 in flight are 64 connections. The lattica SDK is used as it is at its
best: calls of bytes, answered inside its own loop; ``lattica-transport`` is this network on top of it. It contacts
public hosts when it starts: both its processes run under ``unshare -n``, where there are none.

``--lattica-python`` is an interpreter that has lattica, msgspec and cryptography, if this one has no lattica.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SMALL, KILO, BIG, FLIGHT = 128, 1024, 10_000_000, 64
FIGURES = {
    "128 B us": "least", "128 B /s": "most", "1 KB us": "least", "1 KB /s": "most", "10 MB MB/s": "most",
    "reconnect ms": "least",
}  # fmt: skip
Call = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True)
class Client:
    """One end: a call to await; ``blocking`` where waiting in this thread is faster; ``cut`` breaks the connection."""

    call: Call
    blocking: Callable[[bytes], bytes] | None = None
    cut: Callable[[], None] | None = None


@dataclass(frozen=True)
class Way:
    """How to answer, in one process, and how to call, in another, from what the first one printed."""

    serve: Callable[[], Any]
    dial: Callable[[Any], Any]
    uvloop: bool = False
    lattica: bool = False


def reply(body: bytes) -> bytes:
    """Small calls come back; of large ones, that they arrived."""
    return body if len(body) <= KILO else b"ok"


# plain streams


@asynccontextmanager
async def serve_streams() -> AsyncIterator[Any]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                body = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                body = reply(body)
                writer.write(len(body).to_bytes(4, "big") + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()


@asynccontextmanager
async def dial_streams(address: Any) -> AsyncIterator[Client]:
    idle = [await asyncio.open_connection(*address) for _ in range(FLIGHT)]
    writers = [writer for _, writer in idle]

    async def call(body: bytes) -> bytes:
        reader, writer = idle.pop()
        writer.write(len(body).to_bytes(4, "big"))
        writer.write(body)
        await writer.drain()
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        idle.append((reader, writer))
        return answer

    yield Client(call)
    for writer in writers:
        writer.close()


# this network


def network(i: int, transport: str, sign: str) -> Any:
    """The ``i``-th peer; without TLS it believes who the other one says it is, as if that were proven."""
    from hubless.net.identity import Identity
    from hubless.net.network import Network
    from hubless.net.transports.tcp import TcpTransport

    identity = Identity.derived(0, i)
    if transport == "lattica":
        from hubless.net.transports.lattica import LatticaTransport

        return Network(LatticaTransport(identity), identity)
    made = TcpTransport(identity, tls=transport == "tls")
    made.authenticated = True
    return Network(made, identity, sign=sign)  # type: ignore[arg-type]


def ours(transport: str, sign: str = "auto", uvloop: bool = False) -> Way:
    @asynccontextmanager
    async def serve() -> AsyncIterator[Any]:
        async def answer(ctx: Any, body: bytes) -> bytes:
            return reply(body)

        async with network(0, transport, sign) as net:
            net.serve("echo", answer)
            yield net.peer_id, net.transport.addresses()

    @asynccontextmanager
    async def dial(where: Any) -> AsyncIterator[Client]:
        peer, addresses = where
        made = network(1, transport, sign)
        made.introduce(peer, addresses)  # before the start: lattica takes addresses no later
        async with made as net:

            def cut() -> None:
                for link in list(net.transport._open):
                    link.drop()

            yield Client(lambda body: net.request(peer, "echo", body), cut=cut if transport != "lattica" else None)

    return Way(serve, dial, uvloop, transport == "lattica")


# the lattica SDK


class Echo:
    """A service of the SDK, answering where its handlers are run."""

    _rpc_methods = ("echo",)
    _stream_methods = _stream_iter_methods = ()

    def get_service_name(self) -> str:
        return "Echo"

    def get_methods(self) -> list[str]:
        return ["echo"]

    def get_stream_methods(self) -> list[str]:
        return []

    def _handle_echo(self, data: bytes) -> bytes:
        return reply(bytes(data))


def sdk(port: int, *others: str) -> Any:
    from lattica_python_core import LatticaSDK

    host = f"/ip4/127.0.0.1/tcp/{port}"
    config: dict[str, Any] = {"listen_addrs": [host], "with_mdns": False, "with_upnp": False}
    return LatticaSDK(config | ({"bootstrap_nodes": list(others)} if others else {}))


@asynccontextmanager
async def serve_sdk() -> AsyncIterator[Any]:
    node = sdk(17_101)
    node.register_service(Echo())
    yield node.peer_id(), f"/ip4/127.0.0.1/tcp/17101/p2p/{node.peer_id()}"
    node.close()


@asynccontextmanager
async def dial_sdk(where: Any) -> AsyncIterator[Client]:
    peer, address = where
    node = sdk(17_102, address)
    while peer not in node.get_all_peers():
        await asyncio.sleep(0.1)
    client = node.get_client(peer)

    async def call(body: bytes) -> bytes:
        return bytes(await client.call("Echo.echo", body))

    yield Client(call, lambda body: bytes(client.call("Echo.echo", body).result(30)))
    node.close()


WAYS = {
    "streams": Way(serve_streams, dial_streams),
    "no-tls": ours("tcp"),
    "tls": ours("tls"),
    "tls-uvloop": ours("tls", uvloop=True),
    "tls-signed": ours("tls", "always"),
    "lattica-sdk": Way(serve_sdk, dial_sdk, lattica=True),
    "lattica-transport": ours("lattica"),
}


# measuring


async def alone(call: Call, size: int, calls: int) -> float:
    """Median microseconds of one call at a time."""
    body, times = bytes(size), []
    for i in range(calls + 100):
        begin = time.perf_counter()
        await call(body)
        if i >= 100:
            times.append(time.perf_counter() - begin)
    return 1e6 * statistics.median(times)


async def together(call: Call, size: int, calls: int) -> float:
    """Calls a second, 64 in flight."""
    body, left = bytes(size), iter(range(calls))

    async def caller() -> None:
        for _ in left:
            await call(body)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(FLIGHT)))
    return calls / (time.perf_counter() - begin)


async def measure(client: Client, calls: int) -> dict[str, float]:
    """All figures of one pass."""
    figures: dict[str, float] = {}
    blocking = client.blocking
    for name, size in (("128 B", SMALL), ("1 KB", KILO)):
        figures[f"{name} us"] = await alone(client.call, size, calls)
        if blocking is not None:

            async def waiting(body: bytes) -> bytes:
                return blocking(body)

            figures[f"{name} us"] = min(figures[f"{name} us"], await alone(waiting, size, calls))
        await together(client.call, size, calls)  # once to warm up
        figures[f"{name} /s"] = await together(client.call, size, 4 * calls)
    body, rates = bytes(BIG), []
    for _ in range(10):
        begin = time.perf_counter()
        await client.call(body)
        rates.append(BIG / 1e6 / (time.perf_counter() - begin))
    figures["10 MB MB/s"] = statistics.median(rates)
    if client.cut is not None:
        times = []
        for _ in range(10):
            client.cut()
            await asyncio.sleep(0.05)
            begin = time.perf_counter()
            await client.call(bytes(SMALL))
            times.append(time.perf_counter() - begin)
        figures["reconnect ms"] = 1e3 * statistics.median(times)
    return figures


def run(main: Any, way: Way) -> Any:
    """On a loop of the kind that the way wants."""
    if way.uvloop:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    return asyncio.run(main)


async def answering(way: Way) -> None:
    """The process that is called, until its input ends."""
    async with way.serve() as where:
        print(json.dumps(where), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def calling(way: Way, where: Any, calls: int) -> dict[str, float]:
    """The process that calls."""
    async with way.dial(where) as client:
        return await measure(client, calls)


def pair(name: str, calls: int) -> None:
    """Both processes; prints the figures as JSON. This one calls."""
    command = [sys.executable, str(HERE), "--answer", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        try:
            figures = run(calling(WAYS[name], json.loads(other.stdout.readline()), calls), WAYS[name])
            print(json.dumps(figures), flush=True)
        finally:
            other.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                other.wait(5)
            other.kill()


def why_not(way: Way, python: str) -> str:
    """Why a way cannot be measured here; empty if it can."""
    if way.uvloop and subprocess.run([python, "-c", "import uvloop"], capture_output=True, check=False).returncode:
        return "uvloop is not installed"
    if not way.lattica:
        return ""
    found = subprocess.run([python, "-c", "import lattica, msgspec, cryptography"], capture_output=True, check=False)
    if found.returncode:
        return f"{python} cannot import lattica, msgspec and cryptography; name one that can with --lattica-python"
    if shutil.which("unshare") is None or subprocess.run(alone_on_loopback("true"), check=False).returncode:
        return "it would contact public hosts, and no network namespace can be made here (unshare -n)"
    return ""


def alone_on_loopback(*command: str) -> list[str]:
    """A command in a network namespace that has loopback and nothing else."""
    return ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def one_pass(name: str, python: str, calls: int) -> dict[str, float]:
    """The figures of one way, once."""
    command = [python, str(HERE), "--pair", name, "--calls", str(calls)]
    if WAYS[name].lattica:
        command = alone_on_loopback(*command)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src")},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(lines[-1])
    return figures


def better(kind: str, *values: float) -> float:
    return min(values) if kind == "least" else max(values)


def verdicts(best: dict[str, dict[str, float]]) -> list[tuple[str, float, str, bool]]:
    """What is asked of this network: a ratio, beside its bound."""

    def ratio(figure: str, one: str, two: str) -> float | None:
        return best[one][figure] / best[two][figure] if one in best and two in best else None

    asked = [
        ("128 B, TLS: time / plain streams'", ratio("128 B us", "tls", "streams"), "<=", 1.6),
        ("128 B, 64 in flight, TLS: rate / plain streams'", ratio("128 B /s", "tls", "streams"), ">=", 1.5),
        ("10 MB, TLS: MB/s / plain streams'", ratio("10 MB MB/s", "tls", "streams"), ">=", 0.35),
        ("128 B: lattica's time / ours", ratio("128 B us", "lattica-sdk", "tls"), ">=", 3.0),
        ("1 KB: lattica's time / ours", ratio("1 KB us", "lattica-sdk", "tls"), ">=", 3.0),
        ("128 B, 64 in flight: rate / lattica's", ratio("128 B /s", "tls", "lattica-sdk"), ">=", 5.0),
        ("1 KB, 64 in flight: rate / lattica's", ratio("1 KB /s", "tls", "lattica-sdk"), ">=", 5.0),
        ("10 MB: MB/s / lattica's", ratio("10 MB MB/s", "tls", "lattica-sdk"), ">=", 1.0),
        ("reconnect and call, ms", best.get("tls", {}).get("reconnect ms"), "<=", 10.0),
    ]
    return [
        (what, value, f"{sign} {bound}", value <= bound if sign == "<=" else value >= bound)
        for what, value, sign, bound in asked
        if value is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default=",".join(WAYS), help="names, with commas in between")
    parser.add_argument("--passes", type=int, default=3, help="of which the best counts")
    parser.add_argument("--calls", type=int, default=3000, help="one at a time; four times as many in flight")
    parser.add_argument("--lattica-python", default=sys.executable, help="an interpreter that has the lattica SDK")
    parser.add_argument("--json", help="file for all figures")
    parser.add_argument("--pair", help=argparse.SUPPRESS)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        run(answering(WAYS[options.answer]), WAYS[options.answer])
        return 0
    if options.pair:
        pair(options.pair, options.calls)
        return 0
    ways, best = [], {}
    for name in options.ways.split(","):
        python = options.lattica_python if WAYS[name].lattica else sys.executable
        if reason := why_not(WAYS[name], python):
            print(f"{name}: skipped: {reason}")
        else:
            ways.append((name, python))
    passes: list[dict[str, dict[str, float]]] = []
    for _ in range(options.passes):
        passes.append({name: one_pass(name, python, options.calls) for name, python in ways})
    for name, _ in ways:
        figures = passes[0][name]
        best[name] = {figure: better(FIGURES[figure], *(one[name][figure] for one in passes)) for figure in figures}
    print(f"{'':<20}" + "".join(f"{figure:>14}" for figure in FIGURES))
    for name, figures in best.items():
        shown = (f"{figures[figure]:>14,.1f}" if figure in figures else f"{'-':>14}" for figure in FIGURES)
        print(f"{name:<20}" + "".join(shown))
    print()
    rows = verdicts(best)
    for what, value, bound, holds in rows:
        print(f"{'holds' if holds else 'FAILS':<7}{what:<52}{value:>8.2f}   {bound}")
    if options.json:
        Path(options.json).write_text(json.dumps({"best": best, "passes": passes}, indent=1) + "\n")
    return 0 if all(holds for *_, holds in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
