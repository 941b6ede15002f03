"""Schedules of a world: churn and partitions."""

import asyncio

import pytest

from hubless.errors import ConfigError
from hubless.net.transports.churn import Churn, Partition
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim


async def world_of(n, seed=1):
    world = SimWorld(seed, Link(latency=0.1))
    for i in range(n):
        await SimTransport(world, f"p{i:03}").start()
    return world


def test_a_partition_lasts_from_t0_to_t1():
    async def main():
        world = await world_of(2)
        Partition([["p000"], ["p001"]], 10, 20).start(world)
        seen = []
        for _ in range(30):
            await asyncio.sleep(1)
            seen.append(world.peers["p000"].reach("p001"))
        assert seen[:9] == ["direct"] * 9
        assert seen[10:19] == ["none"] * 9
        assert seen[20:] == ["direct"] * 10

    run_sim(main())


def churned(seed):
    log, tasks = [], []

    async def main():
        world = await world_of(100, seed)
        loop = asyncio.get_running_loop()
        before = world.crash
        world.crash = lambda peer: (log.append((loop.time(), "crash", peer)), before(peer))

        def join():
            transport = SimTransport(world, f"new{len(log):03}")
            log.append((loop.time(), "join", transport.peer_id))
            tasks.append(loop.create_task(transport.start()))

        def leave(peer):
            log.append((loop.time(), "leave", peer))
            tasks.append(loop.create_task(world.peers[peer].close()))

        Churn(join=1, leave=0.5, crash=0.5, t0=10, t1=110).start(world, join=join, leave=leave, spare=["p000"])
        await asyncio.sleep(200)
        return sorted(world.peers)

    return run_sim(main()), log


def test_churn_keeps_its_rates_spares_whom_it_should_and_follows_from_the_seed():
    left, log = churned(1)
    kinds = [kind for _, kind, _ in log]
    assert 70 < kinds.count("join") < 130
    assert 30 < kinds.count("leave") < 75
    assert 30 < kinds.count("crash") < 75
    assert all(10 <= when < 110 for when, _, _ in log)
    assert "p000" in left
    assert len(left) == 100 + kinds.count("join") - kinds.count("leave") - kinds.count("crash")
    assert churned(1) == (left, log)
    assert churned(2)[1] != log


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Churn(join=-1), "churn.join = -1"),
        (lambda: Churn(t0=5, t1=5), "churn: t0 = 5"),
        (lambda: Partition([["a"], ["a"]], 0, 1), "two groups"),
        (lambda: Partition([], 2, 1), "partition: t0 = 2"),
        (lambda: Churn(leave=1).start(SimWorld()), "needs leave="),
    ],
)
def test_what_cannot_be_is_an_error(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
