"""How many frames, calls and idle peers the simulated network carries on one core.

    python benchmarks/simulator.py [--passes 3] [--scale 1.0] [--only request] [--profile] [--json simulator.json]

Bodies are 128 bytes, latency 20-150 ms, nothing is lost. Each figure is the best of the passes: frames, calls or
deliveries a second, or virtual seconds a second with idle peers that send three heartbeats a second each.
A second is one of processor time: there is one thread, and it never waits. Beside it the least that is acceptable, and
what the prototype of this network reached on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import resource
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.serving import Context, Handler
from hubless.net.transports.sim import SimTransport, SimWorld, run_sim

BODY = bytes(128)
Rate = Callable[[int], Coroutine[None, None, float]]


@dataclass(frozen=True)
class Row:
    """One figure: how to get it, at what size, the least for it, and the prototype's."""

    name: str
    measure: Rate
    size: int
    floor: float | None
    prototype: str
    unit: str = "/s"


async def network(world: SimWorld, i: int, **options: str) -> Network:
    """The ``i``-th peer."""
    identity = Identity.derived(1, i)
    return await Network(SimTransport(world, identity.peer_id), identity, **options).start()  # type: ignore[arg-type]


async def pair(**options: str) -> tuple[Network, Network]:
    """Two peers in a world of their own."""
    world = SimWorld(1)
    return await network(world, 0, **options), await network(world, 1, **options)


async def raw(n: int) -> float:
    """Frames that ten transports send each other as soon as one arrives."""
    world = SimWorld(1)
    transports = [SimTransport(world, f"{i:064x}") for i in range(10)]
    left, done = n, asyncio.get_running_loop().create_future()

    def answer(transport: SimTransport, src: str | None, frame: bytes) -> None:
        nonlocal left
        left -= 1
        if left >= 10:
            transport.send(src or "", frame)
        elif not left:
            done.set_result(None)

    for transport in transports:
        transport.on_frame(partial(answer, transport))
        await transport.start()
    begun = time.process_time()
    for i, transport in enumerate(transports):
        transport.send(transports[(i + 1) % 10].peer_id, BODY)
    await done
    return n / (time.process_time() - begun)


async def one_way(n: int, **options: str) -> float:
    """Sends of one peer that another decodes and handles at once."""
    one, other = await pair(**options)
    heard = 0

    def hear(_: Context, body: bytes) -> None:
        nonlocal heard
        heard += 1

    other.serve("note", hear)
    begun = time.process_time()
    for first in range(0, n, 1000):
        for _ in range(min(1000, n - first)):
            one.send(other.peer_id, "note", BODY)
        await one.sleep(0.2)
    assert heard == n
    return n / (time.process_time() - begun)


async def calls(n: int, kind: str, **options: str) -> float:
    """Requests of 64 callers to one peer."""
    one, other = await pair(**options)

    def inline(_: Context, body: bytes) -> bytes:
        return body

    async def task(_: Context, body: bytes) -> bytes:
        return body

    async def sleeping(_: Context, body: bytes) -> bytes:
        await other.sleep(0.01)
        return body

    handlers: dict[str, Handler] = {"inline": inline, "task": task, "sleeping": sleeping}
    other.serve("echo", handlers[kind])

    async def caller() -> None:
        for _ in range(n // 64):
            await one.request(other.peer_id, "echo", BODY)

    begun = time.process_time()
    await asyncio.gather(*(caller() for _ in range(64)))
    return n // 64 * 64 / (time.process_time() - begun)


async def publish(n: int) -> float:
    """Deliveries of ``n`` publications to 200 peers."""
    world = SimWorld(1)
    nets = [await network(world, i) for i in range(200)]
    heard = 0

    def hear(_: Context, body: bytes) -> None:
        nonlocal heard
        heard += 1

    for i, net in enumerate(nets):
        net.subscribe("news", hear)
        for step in (1, 3, 10, 31, 99):  # ten neighbours each
            net.introduce(nets[(i + step) % 200].peer_id)
            net.introduce(nets[(i - step) % 200].peer_id)
    begun = time.process_time()
    for i in range(n):
        nets[i % 200].publish("news", BODY)
        await nets[0].sleep(0.1)
    await nets[0].sleep(5)
    seconds = time.process_time() - begun
    print(f"  published {n}: {heard} of {n * 200} deliveries", file=sys.stderr)
    return heard / seconds


async def idle(n: int) -> float:
    """Virtual seconds a second of ``n`` peers that send three heartbeats a second to random neighbours."""
    world = SimWorld(1)
    nets = [await network(world, i) for i in range(n)]
    heard = 0

    def hear(_: Context, body: bytes) -> None:
        nonlocal heard
        heard += 1

    async def beat(net: Network) -> None:
        neighbours = [net.rng.choice(nets).peer_id for _ in range(10)]
        await net.sleep(net.rng.random())
        while True:
            for _ in range(3):
                net.send(net.rng.choice(neighbours), "beat", b"")
            await net.sleep(1)

    for net in nets:
        net.serve("beat", hear)
        net.spawn(beat(net), "beats")
    await nets[0].sleep(12)  # by then nearly all links are made
    heard, best = 0, 0.0
    seconds = max(1.0, 4_000 / n)
    for _ in range(10):
        begun = time.process_time()
        await nets[0].sleep(seconds)
        best = max(best, seconds / (time.process_time() - begun))
    assert heard > 29 * n * seconds
    for net in nets:
        await net.close()
    return best


ROWS = (
    Row("raw frames", raw, 1_000_000, 500_000, "1.15-1.19 M"),
    Row("one-way, decoded, inline", one_way, 300_000, None, "440-460 k"),
    Row("request + inline handler", partial(calls, kind="inline"), 100_000, None, "108-121 k"),
    Row("request + task", partial(calls, kind="task"), 100_000, 40_000, "87-90 k"),
    Row("request + task that sleeps", partial(calls, kind="sleeping"), 50_000, None, "57-63 k"),
    Row("one-way, sign + verify", partial(one_way, sign="always"), 10_000, None, "11.6-12.1 k"),
    Row("request + task, sign + verify", partial(calls, kind="task", sign="always"), 5_000, 3_000, "5.5-5.7 k"),
    Row("publish to 200 peers, deliveries", publish, 200, None, "35 k"),
    Row("100 idle peers", idle, 100, None, "833", "virtual s/s"),
    Row("1,000 idle peers", idle, 1_000, 25, "67", "virtual s/s"),
    Row("10,000 idle peers", idle, 10_000, None, "3.9", "virtual s/s"),
)


def main() -> int:
    """Print the table; the exit code is 1 if a figure is below its floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many frames and calls")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--profile", action="store_true", help="where the time of one pass goes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, float] = {}
    print(f"{'simulator, one core, 128 B':36}{'here':>12} {'':12}{'at least':>10}{'prototype':>14}")
    for row in ROWS:
        if given.only not in row.name:
            continue
        size = row.size if row.measure is idle else max(64, int(row.size * given.scale))
        if given.profile:
            with cProfile.Profile() as profile:
                run_sim(row.measure(size))
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            continue
        rates: list[float] = []
        for _ in range(given.passes):
            rates.append(run_sim(row.measure(size)))
            gc.collect()
        found[row.name] = best = max(rates)
        floor = f"{row.floor:,.0f}" if row.floor else ""
        print(f"{row.name:36}{best:12,.4g} {row.unit:12}{floor:>10}{row.prototype:>14}", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most memory: {memory:,.0f} MB", file=sys.stderr)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(found.get(row.name, float("inf")) < (row.floor or 0) for row in ROWS))


if __name__ == "__main__":
    sys.exit(main())
