"""The simulated network: what links do to frames, who hears of what, and that two runs are one."""

import asyncio
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError, FrameTooLarge, NetworkError, PeerUnreachable
from hubless.net.policy import Limits, Timeouts
from hubless.net.transports.sim import Link, SimTransport, SimWorld, run_sim

STEADY = Link(latency=0.1)


class Ear:
    """What a transport heard, and when."""

    def __init__(self, transport):
        self.transport = transport
        self.frames, self.times, self.sources, self.lost = [], [], [], []
        transport.on_frame(self.hear)
        transport.on_lost(self.lost.append)

    def hear(self, source, frame):
        self.frames.append(frame)
        self.sources.append(source)
        self.times.append(asyncio.get_running_loop().time())


async def world_of(names, link=STEADY, nat=None, **options):
    world = SimWorld(7, link, **options)
    transports = {name: SimTransport(world, name, (nat or {}).get(name, "open")) for name in names}
    ears = {name: Ear(transport) for name, transport in transports.items()}
    for transport in transports.values():
        await transport.start()
    return world, transports, ears


def simulated(test):
    """Run a coroutine test on the virtual clock."""

    def run():
        run_sim(test())

    run.__name__ = test.__name__
    return run


@simulated
async def test_a_frame_arrives_a_latency_later_from_its_sender():
    world, peers, ears = await world_of("ab")
    for _ in range(2):
        peers["a"].send("b", b"hello")
    await asyncio.sleep(1)
    assert ears["b"].frames == [b"hello"] * 2
    assert ears["b"].sources == ["a"] * 2
    assert ears["b"].times == [0.1, 0.1]
    assert peers["a"].now() == peers["b"].now() > 1e9
    assert peers["a"].reach("b") == "direct"
    assert await peers["a"].run(max, 3, 4, cost=2.0) == 4
    assert asyncio.get_running_loop().time() == 3.0
    assert world.stats == {}


@simulated
async def test_each_pair_has_a_latency_of_its_own_alike_both_ways_and_frames_stay_in_order():
    world, peers, ears = await world_of("abcde", Link(latency=(0.02, 0.15)))
    there = {}
    for one in "abcde":
        for other in "abcde":
            if one != other:
                begin = len(ears[other].times)
                now = asyncio.get_running_loop().time()
                for i in range(3):
                    peers[one].send(other, bytes([i]))
                await asyncio.sleep(1)
                there[one, other] = ears[other].times[-1] - now
                assert ears[other].frames[begin:] == [b"\0", b"\1", b"\2"]
    assert all(0.02 <= seconds <= 0.15 for seconds in there.values())
    assert all(there[a, b] == pytest.approx(there[b, a], abs=1e-9) for a, b in there)
    assert len({round(seconds, 6) for seconds in there.values()}) == 10
    assert world.stats == {}


@simulated
async def test_loss_duplicates_and_held_frames_come_at_their_rates():
    world, peers, ears = await world_of("ab", Link(0.1, loss=0.2, duplicate=0.1, reorder=0.3))
    for i in range(4000):
        peers["a"].send("b", i.to_bytes(2))
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    heard = [int.from_bytes(frame) for frame in ears["b"].frames]
    assert 0.18 < world.stats["lost"] / 4000 < 0.22
    assert 0.08 < world.stats["repeated"] / (4000 - world.stats["lost"]) < 0.12
    assert len(set(heard)) == 4000 - world.stats["lost"]
    assert len(heard) == len(set(heard)) + world.stats["repeated"]
    assert sum(one > other for one, other in itertools.pairwise(heard)) > 500


@simulated
async def test_jitter_delays_without_reordering():
    _, peers, ears = await world_of("ab", Link(0.1, jitter=0.5))
    for i in range(200):
        peers["a"].send("b", bytes([i]))
        await asyncio.sleep(0.01)
    await asyncio.sleep(2)
    assert ears["b"].frames == [bytes([i]) for i in range(200)]
    assert max(ears["b"].times) < 2.0 + 0.6


@simulated
async def test_an_uplink_sends_one_frame_after_another_and_ready_waits_for_room():
    world, peers, ears = await world_of("abc", Link(0.1, bandwidth=1000), limits=Limits(buffer=2000, backlog=4000))
    for to in "bcb":
        peers["a"].send(to, bytes(500))
    await asyncio.sleep(10)
    assert ears["b"].times == pytest.approx([0.6, 1.6])
    assert ears["c"].times == pytest.approx([1.1])
    for _ in range(12):
        peers["a"].send("b", bytes(500))
    assert world.stats["backlog"] == 3
    await peers["a"].ready("b", 500)
    assert asyncio.get_running_loop().time() == pytest.approx(10 + 4.5 - 2.0)


@simulated
async def test_one_way_can_differ_from_the_way_back():
    world, peers, ears = await world_of("ab")
    peers["a"].send("b", b"1")
    world.set_link("a", "b", Link(latency=2.0))
    peers["a"].send("b", b"2")
    peers["b"].send("a", b"3")
    await asyncio.sleep(5)
    assert ears["b"].times == [0.1, 2.0]
    assert ears["a"].times == [0.1]


@simulated
async def test_oversize_and_unknown_are_the_senders_to_know():
    _, peers, ears = await world_of("ab", max_frame=100)
    peers["a"].send("b", bytes(100))
    for _ in range(2):
        with pytest.raises(FrameTooLarge, match=r"101 bytes: at most 100"):
            peers["a"].send("b", bytes(101))
    for call in (lambda: peers["a"].send("z", b""), lambda: SimTransport(peers["a"].world, "n").send("a", b"")):
        with pytest.raises(PeerUnreachable):
            call()
    with pytest.raises(PeerUnreachable, match="z is not there"):
        await peers["a"].ready("z")
    assert peers["a"].reach("z") == "none"
    await asyncio.sleep(1)
    assert len(ears["b"].frames) == 1


@simulated
async def test_a_peer_that_leaves_is_missed_a_latency_later_by_those_with_a_link():
    _, peers, ears = await world_of("abc")
    peers["a"].send("b", b"in the air when b leaves")
    await peers["b"].close()
    await peers["b"].close()
    assert ears["a"].lost == []
    peers["a"].send("b", b"to nobody")
    await asyncio.sleep(0.11)
    assert ears["a"].lost == ["b"]
    assert ears["c"].lost == ears["b"].lost == ears["b"].frames == []
    with pytest.raises(PeerUnreachable):
        peers["a"].send("b", b"")
    again = SimTransport(peers["a"].world, "b")
    ear = Ear(again)
    await again.start()
    with pytest.raises(NetworkError, match="runs already"):
        await SimTransport(peers["a"].world, "b").start()
    peers["a"].send("b", b"back")
    await asyncio.sleep(1)
    assert ear.frames == [b"back"]


@simulated
async def test_a_crash_ends_a_peer_and_tells_itself_first():
    world, peers, ears = await world_of("ab")
    peers["b"].send("a", b"last words")
    world.crash("b")
    assert ears["b"].lost == ["b"]
    await asyncio.sleep(1)
    assert ears["a"].frames == [b"last words"]
    assert ears["a"].lost == ["b"]
    with pytest.raises(PeerUnreachable, match="not running"):
        peers["b"].send("a", b"")


@simulated
async def test_a_cut_is_noticed_by_timeouts_only():
    world, peers, ears = await world_of("abc", timeouts=Timeouts(dial=3.0))
    peers["a"].send("b", b"in the air")
    await asyncio.sleep(0.05)
    world.cut("b")
    peers["a"].send("b", b"to the deaf")
    peers["b"].send("a", b"from the dumb")
    await peers["a"].ready("b")  # the link stands, as far as anybody knows
    assert peers["a"].reach("b") == "none"
    with pytest.raises(PeerUnreachable, match=r"did not answer in 3 s"):
        await peers["c"].ready("b")
    assert asyncio.get_running_loop().time() == 3.05
    assert ears["a"].lost == ears["a"].frames == ears["b"].frames == []
    world.revive("b")
    peers["a"].send("b", b"again")
    await asyncio.sleep(1)
    assert ears["b"].frames == [b"again"]


@simulated
async def test_a_partition_holds_frames_back_and_healing_lets_them_through():
    world, peers, ears = await world_of("abcd")
    peers["a"].send("c", b"0")
    await asyncio.sleep(1)
    world.partition(["ab", "c"])
    for to in "bcd":
        peers["a"].send(to, b"1")
    peers["d"].send("c", b"1")
    await asyncio.sleep(1)
    assert [ears[name].frames for name in "bcd"] == [[b"1"], [b"0"], []]
    assert world.stats["cut"] == 3
    await peers["c"].close()  # nobody on the other side hears of it, until the link is used
    await asyncio.sleep(1)
    world.heal()
    peers["a"].send("c", b"2")
    await asyncio.sleep(1)
    assert ears["a"].lost == ["c"]


@simulated
async def test_pairs_that_cannot_punch_need_a_relay_which_proves_nobody():
    nat = {"s": "sym", "t": "sym", "p": "port", "a": "addr", "b": "blocked"}
    world, peers, ears = await world_of("stpabor", nat=nat)
    assert [peers["s"].reach(other) for other in "tpabor"] == ["none", "none", "direct", "none", "direct", "direct"]
    with pytest.raises(PeerUnreachable, match="nat sym to port, and no relay"):
        peers["s"].send("p", b"")
    with pytest.raises(PeerUnreachable):
        await peers["s"].ready("t")
    world.relays = ["r"]
    assert [peers["s"].reach(other) for other in "tpabor"] == [*["relayed"] * 2, "direct", "relayed", *["direct"] * 2]
    peers["s"].send("p", b"sealed")
    peers["s"].send("a", b"open")
    await asyncio.sleep(1)
    assert (ears["p"].sources, ears["p"].times) == ([None], [0.2])
    assert (ears["a"].sources, ears["a"].times) == (["s"], [0.1])
    assert world.stats == {"relayed": 1, "relayed bytes": 6}
    world.crash("r")
    peers["s"].send("p", b"the relay is gone")
    await asyncio.sleep(1)
    assert ears["s"].lost == ["p"]
    with pytest.raises(PeerUnreachable):
        peers["s"].send("p", b"")


@simulated
async def test_the_oldest_link_beyond_the_limit_is_closed():
    world, peers, ears = await world_of("abcd", limits=Limits(links=2))
    for to in "bcd":
        peers["a"].send(to, b"1")
    world.crash("b")
    world.crash("d")
    await asyncio.sleep(1)
    assert ears["a"].lost == ["d"]
    assert [ears[name].frames for name in "bcd"] == [[], [b"1"], []]


def test_it_runs_on_the_virtual_clock_only():
    async def main():
        await SimTransport(SimWorld(), "a").start()

    with pytest.raises(ConfigError, match="run_sim"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("option", "value"),
    [("latency", -1), ("latency", (0.2, 0.1)), ("loss", 1.1), ("jitter", -1), ("bandwidth", float("inf"))],
)
def test_a_link_that_cannot_be_is_an_error(option, value):
    with pytest.raises(ConfigError, match=f"link.{option}"):
        Link(**{option: value})


async def storm(seed, extra=False):
    """Frames that answer each other, with everything that can happen."""
    link = Link(jitter=0.05, loss=0.1, duplicate=0.1, reorder=0.1, bandwidth=1e5)
    world = SimWorld(seed, link)
    world.trace = hashlib.sha256()
    kinds = ("open", "full", "addr", "port", "sym")
    peers = [SimTransport(world, f"peer-{i}", kinds[i % 5]) for i in range(20)]
    for peer in peers:
        await peer.start()
        peer.on_frame(lambda source, frame, peer=peer: answer(peer, source, frame))
    world.relays = ["peer-0"]
    if extra:
        listener = SimTransport(world, "extra")
        await listener.start()
        listener.send("peer-3", bytes([255]))
    for one in peers:
        for other in peers:
            if one is not other:
                one.send(other.peer_id, bytes(50))
    await asyncio.sleep(1)
    world.partition([["peer-1", "peer-2"]])
    await asyncio.sleep(0.2)
    world.heal()
    world.cut("peer-8")
    world.crash("peer-7")
    await asyncio.sleep(2)
    return world.trace.hexdigest(), world.stats


def answer(peer, source, frame):
    if source and frame[0] < 30:
        try:
            peer.send(source, bytes([frame[0] + 1]) + frame[1:])
        except PeerUnreachable:
            peer.world.stats["unreachable"] += 1


def test_runs_in_other_processes_are_byte_equal():
    script = "import test_sim; from hubless.net.transports.sim import run_sim; print(run_sim(test_sim.storm(3)))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{run_sim(storm(3))}\n"
    assert run_sim(storm(4)) != run_sim(storm(3))


def test_one_more_peer_changes_nobody_elses_losses():
    (_, alone), (_, watched) = run_sim(storm(3)), run_sim(storm(3, extra=True))
    assert alone["lost"] == watched["lost"]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.builds(
        Link,
        latency=st.floats(0, 1),
        jitter=st.floats(0, 1),
        bandwidth=st.sampled_from([0, 1000, 1e6]),
        duplicate=st.floats(0, 1),
        reorder=st.floats(0, 1),
    ),
    st.lists(st.integers(0, 300), max_size=20),
)
def test_without_loss_every_frame_arrives_no_sooner_than_it_can(seed, link, sizes):
    async def main():
        world = SimWorld(seed, link)
        one, other = SimTransport(world, "one"), SimTransport(world, "other")
        ear = Ear(other)
        await one.start()
        await other.start()
        for i, size in enumerate(sizes):
            one.send("other", bytes([i]) * (size + 1))
        await asyncio.sleep(60)
        assert sorted({frame[0] for frame in ear.frames}) == list(range(len(sizes)))
        assert len(ear.frames) == len(sizes) + world.stats["repeated"]
        assert all(when >= link.range[0] for when in ear.times)
        if not link.reorder and not link.duplicate:
            assert [frame[0] for frame in ear.frames] == list(range(len(sizes)))

    run_sim(main())
