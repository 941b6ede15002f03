"""Which peers behind address translators reach each other: directly, through a relay, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from hubless.errors import ConfigError, PeerUnreachable
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.nat import NatType
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import population

ECHO = "trial/echo"
ATTEMPTS = 5  # an echo may be repeated without harm, and frames get lost
WAIT = 2.0  # seconds for each


@dataclass(frozen=True)
class Dials:
    """A trial: every one of ``peers`` asks every other.

    mix:    share of each type of translator
    relays: further peers with a public address that carry frames for others
    """

    peers: int = 60
    mix: Mapping[NatType, float] = field(default_factory=lambda: {"open": 1.0})
    relays: int = 3
    latency: tuple[float, float] = (0.02, 0.15)
    loss: float = 0.01


@dataclass
class Reached:
    """What became of it, as shares of all ordered pairs.

    direct:   have a direct link, ``relayed`` only one through a relay
    answered: got an answer
    pairs:    by the types of asker and asked: pairs, direct ones, answered ones
    seconds:  median time to an answer over a direct and over a relayed link
    """

    direct: float
    relayed: float
    answered: float
    pairs: dict[tuple[NatType, NatType], tuple[int, int, int]]
    seconds: dict[str, float]


def apportion(mix: Mapping[NatType, float], peers: int) -> list[NatType]:
    """A type for each peer, by largest remainder. Raises ConfigError for shares that are no shares."""
    total = sum(mix.values())
    if not total > 0 or min(mix.values()) < 0:
        raise ConfigError(f"mix = {dict(mix)}: must be shares, and not all 0")
    exact = {nat: peers * share / total for nat, share in mix.items()}
    count = {nat: int(part) for nat, part in exact.items()}
    for nat in sorted(mix, key=lambda nat: count[nat] - exact[nat])[: peers - sum(count.values())]:
        count[nat] += 1
    return [nat for nat in mix for _ in range(count[nat])]


def dial(trial: Dials, seed: int) -> Reached:
    """Run it in a simulated world."""
    return run_sim(_dial(trial, seed))


async def _dial(trial: Dials, seed: int) -> Reached:
    world = SimWorld(seed, Link(latency=trial.latency, loss=trial.loss))
    nats = apportion(trial.mix, trial.peers)
    async with population(world, trial.peers + trial.relays, nats=nats, joined=False) as everyone:
        peers, relays = everyone[: trial.peers], everyone[trial.peers :]
        world.relays = [relay.peer_id for relay in relays]
        for net in peers:
            net.serve(ECHO, _echo)
        rows = await asyncio.gather(*(_ask_all(i, peers) for i in range(len(peers))))
        reach = [[net.transport.reach(other.peer_id) for other in peers] for net in peers]
    pairs: dict[tuple[NatType, NatType], tuple[int, int, int]] = {}
    took: dict[str, list[float]] = {"direct": [], "relayed": []}
    for i, j in ((i, j) for i in range(len(peers)) for j in range(len(peers)) if i != j):
        count, direct, answered = pairs.get((nats[i], nats[j]), (0, 0, 0))
        seconds = rows[i][j]
        pairs[nats[i], nats[j]] = (count + 1, direct + (reach[i][j] == "direct"), answered + (seconds is not None))
        if seconds is not None:
            took[reach[i][j]].append(seconds)
    total, direct, answered = (sum(column) for column in zip(*pairs.values(), strict=True))
    relayed = sum(row.count("relayed") for row in reach)
    medians = {how: sorted(times)[len(times) // 2] for how, times in took.items() if times}
    return Reached(direct / total, relayed / total, answered / total, pairs, medians)


async def _ask_all(i: int, peers: list[Network]) -> list[float | None]:
    """Seconds until each peer answered; None for those that did not."""
    return [await _ask(peers[i], other) if other is not peers[i] else None for other in peers]


async def _ask(net: Network, other: Network) -> float | None:
    began = net.now()
    for _ in range(ATTEMPTS):
        try:
            await net.request(other.peer_id, ECHO, b"there?", WAIT)
        except PeerUnreachable:
            if net.transport.reach(other.peer_id) == "none":
                return None
        else:
            return net.now() - began
    return None


def _echo(ctx: Context, body: bytes) -> bytes:
    return body
