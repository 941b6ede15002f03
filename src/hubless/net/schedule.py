"""Fault schedules as text: what goes wrong, for whom, when.

A schedule is a comma-separated list of events, ``KIND:HOWMANY[:RULE][xFACTOR][@FROM[-TO]]``. Rounds count from 1
and both ends belong to the interval; without TO it never ends, without ``@`` it is the whole run.

    crash:30%@20            gone without a word from round 20 on; with TO, back after it
    leave:3@10              the same, but announced
    join:20@20              absent before round 20
    data:30%:top-degree@5   their data vanish, they go on relaying
    straggler:10%x5@5-      compute 5 times slower
    link-loss:20%@10-15     that share of the links is down
    partition:2@30-40       the peers fall into 2 groups, the links between them are down
    loss:0.1                every message is lost with this probability

HOWMANY is a number, a percentage (of all peers, rounded), ``peer=3+7`` or ``aggregator`` (whoever has that role
in round FROM). RULE says which peers: ``random`` (the default), ``top-degree`` or ``betweenness``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hubless.errors import ConfigError, did_you_mean

PEER_KINDS = ("crash", "leave", "join", "data", "straggler")
LOSING = ("link-loss", "partition", "loss")
KINDS = (*PEER_KINDS, *LOSING)
RULES = ("random", "top-degree", "betweenness")
GONE = ("crash", "leave", "join")

Unit = Literal["count", "share", "peers", "aggregator"]


@dataclass(frozen=True)
class Event:
    """One event of a schedule.

    kind:   one of ``KINDS``
    unit:   how ``amount`` and ``peers`` say whom it concerns
    amount: a count, or a share or probability between 0 and 1
    peers:  the ids, where they were named
    rule:   which peers are taken, where they were not
    factor: how many times slower stragglers are
    first:  the first round; for ``join`` the first round of being there
    last:   the last round; None: for ever
    text:   the event as it was written
    """

    kind: str
    unit: Unit = "count"
    amount: float = 0.0
    peers: tuple[int, ...] = ()
    rule: str = "random"
    factor: float = 1.0
    first: int = 1
    last: int | None = None
    text: str = ""

    def active(self, t: int) -> bool:
        """Whether round ``t`` suffers from it."""
        if self.kind == "join":
            return t < self.first
        return self.first <= t and (self.last is None or t <= self.last)

    def overlaps(self, other: Event) -> bool:
        """Whether some round suffers from both; a peer that joins is not taken away in that very round either."""
        (a, b), (c, d) = self._span, other._span
        return a <= d and c <= b

    @property
    def _span(self) -> tuple[float, float]:
        if self.kind == "join":
            return 1, self.first
        return self.first, float("inf") if self.last is None else self.last


def parse(text: str, where: str = "faults") -> tuple[Event, ...]:
    """The events of a schedule, in its order; empty text has none.

    Raises ConfigError with the event, the character it starts at, and what is allowed.
    """
    events: list[Event] = []
    position = 0
    for piece in text.split(",") if text.strip() else []:
        word = piece.strip()
        place = f"{where}: {word!r} (character {position + len(piece) - len(piece.lstrip()) + 1})"
        event = _event(word, place)
        for earlier in events:
            if event.kind == earlier.kind == "partition" and event.overlaps(earlier):
                raise ConfigError(f"{place}: overlaps {earlier.text!r}; one partition at a time")
            if shared := _gone_twice(event, earlier):
                raise ConfigError(f"{place}: peer {shared[0]} is already gone by {earlier.text!r} in these rounds")
        events.append(event)
        position += len(piece) + 1
    return tuple(events)


def _gone_twice(event: Event, earlier: Event) -> list[int]:
    if event.kind not in GONE or earlier.kind not in GONE or not event.overlaps(earlier):
        return []
    return sorted(set(event.peers) & set(earlier.peers))


def _event(word: str, place: str) -> Event:
    body, at, when = word.partition("@")
    kind, *fields = (field.strip() for field in body.split(":"))
    if kind not in KINDS:
        raise ConfigError(f"{place}: unknown fault {kind!r}; {did_you_mean(kind, KINDS)}")
    if not 1 <= len(fields) <= 2 or not fields[0]:
        raise ConfigError(f"{place}: must be KIND:HOWMANY[:RULE][xFACTOR][@FROM[-TO]], as in 'crash:30%@20'")
    fields[-1], factor = _factor(fields[-1], kind, place)
    unit, amount, peers = _how_many(fields[0], kind, place)
    rule = fields[1] if len(fields) == 2 else "random"
    if rule not in RULES:
        raise ConfigError(f"{place}: unknown rule {rule!r}; {did_you_mean(rule, RULES)}")
    if len(fields) == 2 and (kind not in PEER_KINDS or unit in ("peers", "aggregator")):
        raise ConfigError(f"{place}: the rule {rule!r} chooses among peers; here there is no choice")
    if not at and kind != "loss" and kind != "link-loss" and kind != "straggler":
        raise ConfigError(f"{place}: needs a round, as in '{body.strip()}@20'")
    first, last = _when(when, place) if at else (1, None)
    if last is not None and kind in ("join", "data"):
        raise ConfigError(f"{place}: '{kind}' takes the round it happens in, not an interval")
    if kind == "join" and first < 2:
        raise ConfigError(f"{place}: peers that join in round 1 were never absent; FROM must be at least 2")
    return Event(kind, unit, amount, peers, rule, factor, first, last, word)


def _factor(field: str, kind: str, place: str) -> tuple[str, float]:
    """The field without its factor, and the factor; only stragglers have one, and they need it."""
    found = re.fullmatch(r"(.*[^x\s])\s*x\s*(\d+(?:\.\d+)?)", field)
    if found is None:
        if kind == "straggler":
            raise ConfigError(f"{place}: needs how many times slower, as in 'straggler:10%x5'")
        return field, 1.0
    if kind != "straggler":
        raise ConfigError(f"{place}: only 'straggler' takes a factor, not {kind!r}")
    factor = float(found[2])
    if factor < 1:
        raise ConfigError(f"{place}: the factor says how many times slower; it must be at least 1")
    return found[1], factor


def _how_many(field: str, kind: str, place: str) -> tuple[Unit, float, tuple[int, ...]]:
    if kind == "loss":
        return "share", _share(field, place, probability=True), ()
    if kind in PEER_KINDS and field == "aggregator" and kind != "join":
        return "aggregator", 1.0, ()
    if kind in PEER_KINDS and field.startswith("peer"):
        if not re.fullmatch(r"peers?\s*=\s*\d+(\s*\+\s*\d+)*", field):
            raise ConfigError(f"{place}: peers are named as 'peer=3' or 'peer=3+7', not {field!r}")
        ids = [int(number) for number in re.findall(r"\d+", field)]
        if len(set(ids)) < len(ids):
            raise ConfigError(f"{place}: a peer is named twice")
        return "peers", float(len(ids)), tuple(ids)
    if field.endswith("%") and kind != "partition":
        return "share", _share(field, place, probability=False), ()
    least = 2 if kind == "partition" else 1
    if not re.fullmatch(r"\d+", field) or int(field) < least:
        raise ConfigError(f"{place}: {field!r} must be {_allowed(kind, least)}")
    return "count", float(field), ()


def _allowed(kind: str, least: int) -> str:
    if kind == "partition":
        return f"a number of groups, at least {least}"
    if kind == "link-loss":
        return "a number of links or a percentage of them"
    return "a number of peers, a percentage, 'peer=ID+ID'" + ("" if kind == "join" else " or 'aggregator'")


def _share(field: str, place: str, *, probability: bool) -> float:
    percent = field.endswith("%")
    try:
        value = float(field.removesuffix("%"))
    except ValueError:
        raise ConfigError(f"{place}: {field!r} must be a {'probability' if probability else 'percentage'}") from None
    top = 100 if percent else 1
    if not 0 <= value <= top:
        raise ConfigError(f"{place}: {field!r} must be between 0 and {top}{'%' if percent else ''}")
    return value / top


def _when(text: str, place: str) -> tuple[int, int | None]:
    found = re.fullmatch(r"\s*(\d+)\s*(-\s*(\d*)\s*)?", text)
    if found is None:
        raise ConfigError(f"{place}: {text.strip()!r} must be a round, or two as FROM-TO; rounds count from 1")
    first, last = int(found[1]), int(found[3]) if found[3] else None
    if first < 1:
        raise ConfigError(f"{place}: rounds count from 1, so FROM cannot be {first}")
    if last is not None and last < first:
        raise ConfigError(f"{place}: TO = {last} comes before FROM = {first}")
    return first, last
