"""Nodes end with the rows of the simulator, and go on whatever happens to others."""

import asyncio
import dataclasses

import msgspec
import pytest
import torch
from town import Town, play, settled, simulated

from hubless.errors import ConfigError, PeerUnreachable, RemoteError
from hubless.learn.node.deployable import deployable
from hubless.learn.node.node import Pace
from hubless.learn.node.words import Hello, Member, write
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.sim import SimTransport

CLOSE = 1e-4


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("dfedsam", {}),
        ("dfedsam", {"gossip_steps": 3, "codec": "delta+top-k:0.2", "peers": 4}),
        ("dsgd", {"codec": "float16", "momentum": 0.5}),
        ("dsgd", {"codec": "uniform:8+bits", "merge": "krum", "attack": "sign-flip", "topology": "full"}),
        ("modest", {}),
        ("modest", {"codec": "zstd", "aggregators": 2}),
        ("bristle", {}),
        ("sybilwall", {}),
        ("single-merge", {}),
        ("dsgd", {"codec": "secure-sum", "weights": "uniform", "topology": "full", "peers": 4}),
        ("dfedsam", {"codec": "secure-sum:0.1", "weights": "uniform", "peers": 4}),
    ],
    ids=str,
)
def test_nodes_end_with_the_rows_of_the_simulator(recipe, options):
    run, _ = simulated(recipe, **options)
    town = play(Town(recipe, **options))
    assert town.apart(run) <= CLOSE
    assert not any(node.dropped() for node in town.nodes.values())
    assert sum(node.missing for node in town.nodes.values()) == 0


@pytest.mark.parametrize("aggregator", ["star", "rotating"])
def test_an_aggregator_that_is_a_role_works_too(aggregator):
    run, _ = simulated("fedavg", aggregator=aggregator, peers=4)
    town = play(Town("fedavg", aggregator=aggregator, peers=4))
    assert min(town.apart(run, [peer]) for peer in range(4)) <= CLOSE


def test_a_killed_node_takes_nobody_down_and_goes_on_from_its_own_rows(tmp_path, caplog):
    town = Town("dsgd", homes=tmp_path, peers=5, rounds=20)
    seen = []

    async def trouble():
        first = asyncio.ensure_future(town.node(2))
        while town.nodes.get(2) is None or town.nodes[2].group.round < 6:
            await asyncio.sleep(0.01)
        town.world.crash(town.identities[2].peer_id)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0.5)
        seen.append(town.nodes[0].group.here())
        await town.node(2)

    play(town, *(town.node(i) for i in (0, 1, 3, 4)), trouble())
    assert seen == [[0, 1, 3, 4]]
    assert "goes on with its own rows of round" in caplog.text
    assert [node.group.round for node in town.nodes.values()] == [20] * 5
    spread = torch.stack([town.row(peer) for peer in range(5)]).std(0).mean()
    assert spread < 0.1, "the one that was killed is back among the others"


def test_a_secure_sum_does_without_a_peer_that_nobody_has_met(caplog):
    options = {"codec": "secure-sum", "weights": "uniform", "topology": "full", "peers": 6, "rounds": 5}
    town = play(town := Town("dsgd", pace=Pace(5.0, 1.0, wanted=5, gather=20.0), **options), *map(town.node, range(5)))
    assert [node.group.round for node in town.nodes.values()] == [5] * 5
    assert "stayed closed" not in caplog.text
    assert torch.stack([town.row(peer) for peer in range(5)]).std(0).max() < 1e-4, "all average the same rows"


def test_a_late_node_joins_at_the_current_round():
    town = Town("dsgd", pace=Pace(5.0, 1.0, wanted=4, gather=20.0), peers=5, rounds=20)

    async def late():
        while town.nodes.get(0) is None or town.nodes[0].group.round < 8:
            await asyncio.sleep(0.01)
        await town.node(4)

    play(town, *(town.node(i) for i in range(4)), late())
    assert [node.group.round for node in town.nodes.values()] == [20] * 5
    spread = torch.stack([town.row(peer) for peer in range(5)]).std(0).mean()
    assert spread < 0.1


def test_a_node_that_is_cut_off_waits_and_comes_back():
    town = Town("dsgd", peers=5, rounds=30)
    rounds = []

    async def trouble():
        while town.nodes.get(2) is None or town.nodes[2].group.round < 6:
            await asyncio.sleep(0.01)
        town.world.cut(town.identities[2].peer_id)
        while town.nodes[0].group.round < 15:
            await asyncio.sleep(0.01)
        rounds.append(town.nodes[2].group.round)
        town.world.revive(town.identities[2].peer_id)

    play(town, *(town.node(i) for i in range(5)), trouble())
    assert rounds[0] < 15, "it did not run ahead alone"
    assert [node.group.round for node in town.nodes.values()] == [30] * 5
    assert torch.stack([town.row(peer) for peer in range(5)]).std(0).mean() < 0.1


def test_the_sides_of_a_partition_come_together_again():
    town = Town("dsgd", peers=6, rounds=40)
    ids = [one.peer_id for one in town.identities]
    apart = []

    async def trouble():
        while town.nodes.get(0) is None or town.nodes[0].group.round < 4:
            await asyncio.sleep(0.01)
        town.world.partition([ids[:3], ids[3:]])
        await asyncio.sleep(8)
        apart.extend([town.nodes[0].group.here(), town.nodes[5].group.here()])
        town.world.heal()

    play(town, *(town.node(i) for i in range(6)), trouble())
    assert apart == [[0, 1, 2], [3, 4, 5]]
    assert [node.group.round for node in town.nodes.values()] == [40] * 6
    assert torch.stack([town.row(peer) for peer in range(6)]).std(0).mean() < 0.1


def test_modest_survives_a_peer_that_dies():
    town = Town("modest", rounds=12)

    async def trouble():
        victim = asyncio.ensure_future(town.node(3))
        while town.nodes.get(3) is None or town.nodes[3].group.round < 4:
            await asyncio.sleep(0.01)
        town.world.crash(town.identities[3].peer_id)
        victim.cancel()
        await asyncio.gather(victim, return_exceptions=True)

    play(town, *(town.node(i) for i in range(8) if i != 3), trouble())
    books = [node.shard.book for i, node in town.nodes.items() if i != 3]
    assert [node.group.round for i, node in town.nodes.items() if i != 3] == [12] * 7
    assert all(book["sample"] == books[0]["sample"] for book in books), "all draw the same sample again"
    assert 3 not in books[0]["sample"]


def test_a_stranger_is_refused_with_a_reason():
    town = Town("dsgd", peers=3)
    other = Town("dsgd", peers=3, lr=0.2)
    other.world, other.identities = town.world, [Identity.derived(2, i) for i in range(3)]
    said = []

    async def stranger():
        with pytest.raises(ConfigError) as caught:
            await other.node(1, [town.identities[0].peer_id])
        said.append(str(caught.value))

    async def thief():
        """Another key that would be peer 1."""
        identity = Identity.derived(3, 3)
        async with Network(SimTransport(town.world, identity.peer_id), identity) as net:
            await net.sleep(0.6)
            hello = Hello(town.rules.digest, Member(identity.peer_id, [1], []))
            with pytest.raises(RemoteError) as caught:
                await net.request(town.identities[0].peer_id, "node/hello", write(hello))
            said.append(str(caught.value))

    play(town, *(town.node(i) for i in range(3)), stranger(), thief())
    assert any("other options" in text for text in said)
    assert any("peer 1 has another key" in text for text in said)
    assert [node.group.round for node in town.nodes.values()] == [3] * 3


def test_packets_that_the_plan_does_not_name_are_dropped_and_counted():
    town = Town("dsgd", peers=4, rounds=6)
    run, _ = simulated("dsgd", peers=4, rounds=6)

    async def hostile():
        """Node 1, whose frames are joined by others that claim to be of peers 2 and 3, and by junk."""
        while town.nodes.get(1) is None or town.nodes[1].group.round < 1:
            await asyncio.sleep(0.001)
        net, to = town.nodes[1].net, town.identities[0].peer_id
        for r in range(6):
            for packets in (b"\xff", msgspec.msgpack.encode([[2, -1, b"lie"], [3, -1, b""], [-7, 99, b""]])):
                net.send(to, "rows/learn", msgspec.msgpack.encode([r, 0, packets, b""]))
        net.send(to, "node/hello", b"junk")
        net.send(to, "node/bye", b"junk" * 1000)

    play(town, *(town.node(i) for i in range(4)), hostile())
    counts = town.nodes[0].dropped()
    assert (
        counts["doubled"] + counts.get("malformed", 0) + counts.get("not in the plan", 0) + counts.get("late", 0) >= 6
    )
    assert town.apart(run, [2]) < 1, "its neighbours go on"
    assert [node.group.round for node in town.nodes.values()] == [6] * 4


@pytest.mark.parametrize(
    ("recipe", "options", "why"),
    [
        ("dsgd", {"faults": "crash:1@2"}, "faults = 'crash:1@2'"),
        ("dsgd", {"attack": "alie", "topology": "full"}, "attack: "),
        ("dsgd", {"privacy": "dp-sgd:1:1"}, "privacy: "),
        ("knexa", {}, "overlay: "),
    ],
)
def test_what_cannot_be_deployed_is_refused_by_name(recipe, options, why):
    loaded, values = settled(recipe, **options)
    with pytest.raises(ConfigError) as caught:
        deployable(loaded.build(values), recipe)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("field", ["period", "grace", "gather"])
def test_bad_paces_are_refused(field):
    with pytest.raises(ConfigError, match=f"pace.{field} = 0"):
        dataclasses.replace(Pace(), **{field: 0.0})


def test_a_node_that_finds_nobody_to_join_says_so():
    town = Town("dsgd", pace=Pace(5.0, 1.0, gather=3.0), peers=3, rounds=2)

    async def main():
        with pytest.raises(PeerUnreachable, match="nobody to join: none of 1 answered in 3 s"):
            await town.node(0, [town.identities[1].peer_id])

    play(town, main())


def test_a_node_alone_waits_no_longer_than_it_must():
    town = Town("dsgd", pace=Pace(5.0, 1.0, gather=3.0), peers=3, rounds=2)

    async def main():
        identity = Identity.derived(9, 9)
        async with Network(SimTransport(town.world, identity.peer_id), identity):
            await town.node(0, [])

    play(town, main())
    assert town.nodes[0].group.round == 2
