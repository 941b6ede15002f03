"""What replicated documents cost: writing, taking what others wrote, being on disk, becoming equal; beside loro.

    python benchmarks/crdt.py [--writes 5000] [--passes 3] [--json crdt.json]

One thread; each figure is the best of the passes. Seconds are of processor time, and of the clock where a disk is
waited for. Every operation of ours is signed and checked. Loro signs nothing: its own figures say what a map costs
without that, ``loro in signed operations`` what it costs with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubless.net.crdt.chain import Op
from hubless.net.crdt.persistence import whole
from hubless.net.crdt.replica import Replica
from hubless.net.crdt.store import CrdtStore
from hubless.net.identity import Identity, _holds
from hubless.net.network import Network
from hubless.net.transports.sim import SimTransport, SimWorld, run_sim

KEYS = 2000
REPLICAS, OPERATIONS = 30, 900
PEOPLE = [Identity.derived(1, i) for i in range(REPLICAS)]


async def stores_of(peers: int, every: float, **options: Any) -> list[CrdtStore]:
    world, members = SimWorld(0), [identity.peer_id for identity in PEOPLE[:peers]]
    nets = [await Network(SimTransport(world, i.peer_id), i).start() for i in PEOPLE[:peers]]
    return [CrdtStore(net, "bench", lambda: members, every=every, **options) for net in nets]


def alone(body: Callable[[CrdtStore], Any], **options: Any) -> Any:
    """What ``body`` finds with one store."""

    async def main() -> Any:
        (store,) = await stores_of(1, 0.0, **options)
        try:
            return body(store)
        finally:
            store.close()
            await store.net.close()

    return run_sim(main())


def rate(n: int, call: Callable[[int], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Calls a second."""
    began = clock()
    for i in range(n):
        call(i)
    return n / (clock() - began)


def writes(n: int, write: Callable[[CrdtStore, int], Any], **options: Any) -> float:
    """Writes a second; by the clock where there is a folder."""
    clock = time.perf_counter if options else time.process_time
    return float(alone(lambda store: rate(n, lambda i: write(store, i), clock), **options))


def on_disk(n: int, sync: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return writes(n, put, folder=folder, sync=sync)


def put(store: CrdtStore, i: int) -> None:
    store.set("m", str(i % KEYS), i)


def edit(store: CrdtStore, i: int) -> None:
    document = store.document("d")
    document.loro.get_map("m").insert(str(i % KEYS), i)
    document.commit()


def snapshot(n: int, write: Callable[[CrdtStore, int], Any] = put) -> bytes:
    def body(store: CrdtStore) -> bytes:
        rate(n, lambda i: write(store, i))
        return store.snapshot()

    return bytes(alone(body))


def taken(n: int) -> float:
    """Operations of another that are read, checked and folded a second."""
    pairs = [ops[0].pair() for ops in whole(snapshot(n), "bench")]
    gc.collect()
    _holds.cache_clear()
    replica = Replica("bench")
    return rate(n, lambda i: replica.offer(Op(*pairs[i])))


def loaded(n: int) -> float:
    """Operations a second that are back after a restart."""
    with tempfile.TemporaryDirectory() as folder:
        alone(lambda store: rate(n, lambda i: put(store, i)), folder=folder)
        gc.collect()
        began = time.process_time()
        alone(lambda store: store.digest(), folder=folder)
        return n / (time.process_time() - began)


def spread() -> tuple[float, float, float]:
    """All replicas write at once: seconds of processor time, rounds and bytes a replica until they are equal."""

    async def main() -> tuple[float, float, float]:
        stores = await stores_of(REPLICAS, 1.0)
        for i in range(OPERATIONS):
            put(stores[i % REPLICAS], i)
        clock, began = stores[0].net, time.process_time()
        start = clock.now()
        while len({store.digest() for store in stores}) > 1:
            await clock.sleep(0.25)
        spent, rounds = time.process_time() - began, clock.now() - start
        volume = sum(store.net.stats["bytes"] for store in stores) / REPLICAS
        for store in stores:
            store.close()
            await store.net.close()
        return spent, rounds, volume

    _holds.cache_clear()
    return run_sim(main())


def loro_writes(n: int, commit: bool) -> float:
    import loro

    document = loro.LoroDoc()
    values = document.get_map("m")

    def write(i: int) -> None:
        values.insert(str(i % KEYS), i)
        if commit:
            document.commit()

    return rate(n, write)


def loro_sizes(n: int) -> tuple[int, int]:
    """Bytes of a map after ``n`` writes with all history, and without."""
    import loro

    document = loro.LoroDoc()
    rate(n, lambda i: document.get_map("m").insert(str(i % KEYS), i))
    document.commit()
    mode = loro.ExportMode
    shallow = mode.ShallowSnapshot(document.oplog_frontiers)
    return len(document.export(mode.Snapshot())), len(document.export(shallow))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    n, found = asked.writes, {}

    def best(name: str, measure: Callable[[], float], unit: str = "/s", *, least: bool = False) -> None:
        found[name] = (min if least else max)(measure() for _ in range(asked.passes))
        print(f"{name:<52} {found[name]:>12,.3g} {unit}" if least else f"{name:<52} {found[name]:>12,.0f} {unit}")

    best("count", lambda: writes(n, lambda store, i: store.incr("n")))
    best("set a key of a map", lambda: writes(n, put))
    best("add to a set", lambda: writes(n, lambda store, i: store.add("s", i)))
    best("set a key, kept in a folder", lambda: on_disk(n, "sent"))
    best("set a key, on disk before the call returns", lambda: on_disk(n // 10, "always"))
    best("operations of others taken", lambda: taken(n))
    best("operations back after a restart", lambda: loaded(n))
    print(f"\n{OPERATIONS} operations, {REPLICAS} replicas that all write at once, until all are equal")
    runs = [spread() for _ in range(asked.passes)]
    best("seconds for all replicas in one process", lambda: min(run[0] for run in runs), "s", least=True)
    best("rounds of one exchange each", lambda: runs[0][1], "", least=True)
    best("kilobytes sent by a replica", lambda: runs[0][2] / 1000, "kB", least=True)
    print(f"\na map of {KEYS} keys after {n} writes")
    best("loro: set a key", lambda: loro_writes(n, False))
    best("loro: set a key and commit", lambda: loro_writes(n, True))
    best("loro in signed operations: set a key and commit", lambda: writes(n, edit))
    full, shallow = loro_sizes(n)
    best("snapshot: ours, every operation signed", lambda: len(snapshot(n)) / 1000, "kB", least=True)
    best("snapshot: loro in signed operations", lambda: len(snapshot(n, edit)) / 1000, "kB", least=True)
    best("snapshot: loro with history", lambda: full / 1000, "kB", least=True)
    best("snapshot: loro, shallow", lambda: shallow / 1000, "kB", least=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
