"""What happens to a simulated world while it runs: peers come and go, groups are cut off from each other."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubless.errors import ConfigError
from hubless.net.transports.transport import PeerId
from hubless.net.transports.world import SimWorld


@dataclass(frozen=True)
class Partition:
    """``groups`` of peers cannot hear each other from ``t0`` to ``t1``, in seconds from the start of the schedule.

    Raises ConfigError if it ends before it begins, or a peer is in two groups.
    """

    groups: Sequence[Sequence[PeerId]]
    t0: float
    t1: float

    def __post_init__(self) -> None:
        _check_times("partition", self.t0, self.t1)
        members = [peer for group in self.groups for peer in group]
        if len(dict.fromkeys(members)) < len(members):
            raise ConfigError("partition.groups: a peer is in two groups")

    def start(self, world: SimWorld) -> None:
        """Schedule it; the end of one partition is the end of all."""
        loop = asyncio.get_running_loop()
        loop.call_later(self.t0, world.partition, self.groups)
        loop.call_later(self.t1, world.heal)


@dataclass(frozen=True)
class Churn:
    """Peers ``join``, ``leave`` and ``crash`` at random: so many a second in the whole world, from ``t0`` to ``t1``.

    Raises ConfigError for rates and times that are negative or not finite.
    """

    join: float = 0.0
    leave: float = 0.0
    crash: float = 0.0
    t0: float = 0.0
    t1: float = math.inf

    def __post_init__(self) -> None:
        for name in ("join", "leave", "crash"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"churn.{name} = {getattr(self, name)}: must be events a second, 0 or more")
        _check_times("churn", self.t0, self.t1)

    def start(
        self,
        world: SimWorld,
        *,
        join: Callable[[], object] | None = None,
        leave: Callable[[PeerId], object] | None = None,
        spare: Sequence[PeerId] = (),
    ) -> None:
        """Schedule it.

        join:  makes and starts one more peer
        leave: ends a peer in an orderly way
        spare: peers that stay

        Raises ConfigError for a rate whose function is missing.
        """
        for name, given in (("join", join), ("leave", leave)):
            if getattr(self, name) and given is None:
                raise ConfigError(f"churn.{name} = {getattr(self, name)}: start needs {name}=, a function that does it")
        rates = {"join": self.join, "leave": self.leave, "crash": self.crash}
        total = sum(rates.values())
        if not total:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + self.t1
        draw = random.Random(f"{world.seed}/churn")
        stays = dict.fromkeys(spare)

        def event() -> None:
            if loop.time() >= end:
                return
            (kind,) = draw.choices(list(rates), list(rates.values()))
            candidates = [peer for peer in sorted(world.peers) if peer not in stays]
            if kind == "join" and join is not None:
                join()
            elif candidates:
                peer = draw.choice(candidates)
                if kind == "leave" and leave is not None:
                    leave(peer)
                else:
                    world.crash(peer)
            loop.call_later(draw.expovariate(total), event)

        loop.call_later(self.t0 + draw.expovariate(total), event)


def _check_times(name: str, t0: float, t1: float) -> None:
    if not 0 <= t0 < t1:
        raise ConfigError(f"{name}: t0 = {t0}, t1 = {t1}: must be seconds, t0 before t1")
