"""Which peers behind address translators reach each other: directly, through a relay, or not at all."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from hubless.errors import ConfigError, PeerUnreachable, did_you_mean
from hubless.net.network import Network
from hubless.net.serving import Context
from hubless.net.transports.nat import NatType
from hubless.net.transports.sim import Link, SimWorld, run_sim
from hubless.net.trials.population import LOSSY, population
from hubless.run.stages import Findings

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
    link: Link = LOSSY

    def __post_init__(self) -> None:
        if self.peers < 2:
            raise ConfigError(f"peers = {self.peers}: must be at least 2")

    def findings(self, seed: int) -> Findings:
        """The trial, and the same without relays."""
        with_relays, without = dial(self, seed), dial(replace(self, relays=0), seed)
        nats = list(dict.fromkeys(apportion(self.mix, self.peers)))
        arms = {f"{self.relays} relays": with_relays, "no relays": without}
        return Findings(
            metrics={
                "direct_share": with_relays.direct,
                "relayed_share": with_relays.relayed,
                "answered_share": with_relays.answered,
                "answered_share_without_relays": without.answered,
                **{f"seconds_{how}": seconds for how, seconds in with_relays.seconds.items()},
            },
            figures=[
                {
                    "type": "heatmap", "title": "Direct links, by type of the asking (rows) and the asked peer",
                    "x": nats, "y": nats, "unit": "share of pairs",
                    "values": [[with_relays.share(asker, asked) for asked in nats] for asker in nats],
                },
                {
                    "type": "bars", "title": "How pairs of peers reach each other",
                    "labels": ["direct", "relayed", "not at all"], "ylabel": "share of pairs",
                    "groups": {
                        name: [arm.direct, arm.relayed, 1 - arm.direct - arm.relayed] for name, arm in arms.items()
                    },
                },
            ],
        )  # fmt: skip


@dataclass
class Reached:
    """What became of it, as shares of all ordered pairs.

    direct:   have a direct link, ``relayed`` only one through a relay
    answered: got an answer
    pairs:    by the types of asker and asked: how many, and how many directly
    seconds:  median time to an answer over a direct and over a relayed link
    """

    direct: float
    relayed: float
    answered: float
    pairs: dict[tuple[NatType, NatType], tuple[int, int]]
    seconds: dict[str, float]

    def share(self, asker: NatType, asked: NatType) -> float | None:
        """Of the pairs of two types, those with a direct link; None where there is no pair."""
        count, direct = self.pairs.get((asker, asked), (0, 0))
        return direct / count if count else None


def read_mix(text: str, where: str) -> dict[NatType, float]:
    """``open=10,sym=5`` as shares by type; ``where`` names the option in errors. Raises ConfigError."""
    mix: dict[NatType, float] = {}
    for item in text.split(","):
        name, _, share = item.partition("=")
        for nat in get_args(NatType):
            if nat == name.strip():
                mix[nat] = _number(share)
                break
        else:
            raise ConfigError(f"{where} = {text!r}: {did_you_mean(name, get_args(NatType))}")
    if not all(0 <= share < math.inf for share in mix.values()) or not sum(mix.values()):
        raise ConfigError(f"{where} = {text!r}: must be like open=10,sym=5, shares that are not all 0")
    return mix


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def apportion(mix: Mapping[NatType, float], peers: int) -> list[NatType]:
    """A type for each peer, by largest remainder."""
    exact = {nat: peers * share / sum(mix.values()) for nat, share in mix.items()}
    count = {nat: int(part) for nat, part in exact.items()}
    for nat in sorted(mix, key=lambda nat: count[nat] - exact[nat])[: peers - sum(count.values())]:
        count[nat] += 1
    return [nat for nat in mix for _ in range(count[nat])]


def dial(trial: Dials, seed: int) -> Reached:
    """Run it in a simulated world."""
    return run_sim(_dial(trial, seed))


async def _dial(trial: Dials, seed: int) -> Reached:
    world = SimWorld(seed, trial.link)
    nats = apportion(trial.mix, trial.peers)
    async with population(world, trial.peers + trial.relays, nats=nats, joined=False) as everyone:
        peers, relays = everyone[: trial.peers], everyone[trial.peers :]
        world.relays = [relay.peer_id for relay in relays]
        for net in peers:
            net.serve(ECHO, _echo)
        rows = await asyncio.gather(*(_ask_all(net, peers) for net in peers))
        reach = [[net.transport.reach(other.peer_id) for other in peers] for net in peers]
    pairs: dict[tuple[NatType, NatType], tuple[int, int]] = {}
    took: dict[str, list[float]] = {"direct": [], "relayed": []}
    relayed = 0
    for i, j in itertools.permutations(range(len(peers)), 2):
        count, direct = pairs.get((nats[i], nats[j]), (0, 0))
        pairs[nats[i], nats[j]] = (count + 1, direct + (reach[i][j] == "direct"))
        relayed += reach[i][j] == "relayed"
        seconds = rows[i][j]
        if seconds is not None:
            took[reach[i][j]].append(seconds)
    total = len(peers) * (len(peers) - 1)
    return Reached(
        direct=sum(direct for _, direct in pairs.values()) / total,
        relayed=relayed / total,
        answered=sum(map(len, took.values())) / total,
        pairs=pairs,
        seconds={how: statistics.median(times) for how, times in took.items() if times},
    )


async def _ask_all(net: Network, peers: list[Network]) -> list[float | None]:
    """Seconds until each peer answered; None for those that did not, and for oneself."""
    return [await _ask(net, other) if other is not net else None for other in peers]


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
