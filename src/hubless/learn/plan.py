"""The plan of a round: what an overlay may know, the steps it can plan, and what it must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

Book = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What an overlay may know: who is a member, never who is alive, except by asking.

    sizes:   training samples a peer ``[N]``
    members: ids of peers that are not excluded
    ping:    whether a peer answers now
    joined:  ids of peers that say in this round that they are here (back again, or new)
    left:    ids of peers that said before this round that they would go; those that crash say nothing
    """

    n: int
    seed: int
    sizes: Tensor
    members: list[int]
    ping: Callable[[int], bool]
    joined: tuple[int, ...] = ()
    left: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chatter:
    """Small messages that peers exchanged to agree on a plan, beside those of the plan itself: pings, membership.

    sent:     bytes that each peer sent ``[N]``
    messages: how many
    trips:    round trips that had to follow one another
    seconds:  time waited for answers that did not come
    metrics:  join the round's record
    events:   what a person should know, in words
    """

    sent: Tensor
    messages: int = 0
    trips: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Train:
    """A step of the plan: peers of each role train; with ``after``, only those that the exchange reached."""

    roles: Mapping[str, Tensor]
    after: str | None = None


@dataclass(frozen=True)
class Exchange:
    """A step of the plan: messages from ``src [E]`` to ``dst [E]``, sorted by destination.

    ``weight [E]`` is non-negative and normalised over what arrives. ``collect`` marks work handed to an aggregator:
    only peers that trained in this round send. ``part [E]`` says, to merges that send parts, which of ``parts`` equal
    pieces of its row the sender of an edge is to say; it may say one piece an exchange.
    """

    name: str
    src: Tensor
    dst: Tensor
    weight: Tensor
    collect: bool = False
    part: Tensor | None = None
    parts: int = 1


Plan = tuple[Train | Exchange, ...]
HAND = "hand"  # the exchange by which the aggregator role moves; reserved
DOWN = "down"  # the exchange by which an aggregator's answer goes out; robust merges take it as it is


class Overlay:
    """The round's plan: who trains, and who sends to whom. A pure function of (round, membership, seed).

    shared:   nobody trains before receiving the aggregator's model
    in_parts: some exchange is planned in parts of a row, for a merge that says them
    """

    phases: ClassVar[tuple[str, ...]] = ("gossip",)
    roles: ClassVar[tuple[str, ...]] = ("train",)
    shared: ClassVar[bool] = False
    in_parts: ClassVar[bool] = False
    reports: ClassVar[tuple[str, ...]] = ()

    def check(self, n: int, seed: int = 0) -> None:
        """Raise ConfigError when the plan cannot work with n peers."""

    def init(self, world: World) -> Book:
        """The overlay's own memory."""
        return {}

    def plan(self, t: int, world: World, book: Book) -> Plan:
        """The steps of round t, in order."""
        raise NotImplementedError

    def chatter(self, t: int, book: Book) -> Chatter | None:
        """What it cost the peers to agree on the plan that was just made; None: nothing."""
        return None

    def outcome(self, t: int, book: Book) -> list[int] | None:
        """Peers whose models are what the round came to, where others hold older ones; None: everyone's."""
        return None

    def handed(self, holders: list[int], book: Book) -> None:
        """Who holds the aggregator role after the exchange ``hand``; empty when its holders are gone."""

    def observe(self, t: int, plan: Plan, reports: Mapping[str, Mapping[int, Tensor]], book: Book) -> None:
        """What the peers reported after the round; bandits learn here."""
