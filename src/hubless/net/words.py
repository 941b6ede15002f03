"""Faults in plain words, for people who watch a run."""

from __future__ import annotations

from hubless.net.schedule import Event


def telling(event: Event, t: int) -> bool:
    """Whether the event starts in round ``t``, or ended with the round before."""
    return t == event.first or (event.last is not None and t == event.last + 1)


def tell(event: Event, t: int, peers: list[int], n: int) -> str:
    """What the event, whose ``peers`` are among ``n``, does in round ``t`` in which there is something to tell."""
    who, one = _who(event, peers, n), len(peers) == 1
    return _starts(event, who, one) if t == event.first else _ends(event, who, one)


def _starts(event: Event, who: str, one: bool) -> str:
    if event.kind == "partition":
        return f"the network falls into {event.amount:.0f} groups"
    if event.kind == "link-loss":
        return f"{event.amount:.0%} of the links fail" if event.unit == "share" else f"{event.amount:.0f} links fail"
    if event.kind == "loss":
        return f"messages are lost with probability {event.amount:g}"
    return {
        "crash": f"{who} {'crashes' if one else 'crash'}",
        "leave": f"{who} {'leaves' if one else 'leave'}",
        "join": f"{who} {'joins' if one else 'join'}",
        "data": f"{who} {'loses its' if one else 'lose their'} data",
        "straggler": f"{who} {'computes' if one else 'compute'} {event.factor:g} times slower",
    }[event.kind]


def _ends(event: Event, who: str, one: bool) -> str:
    if event.kind == "partition":
        return f"the {event.amount:.0f} groups meet again"
    if event.kind == "link-loss":
        return "the failed links are back"
    if event.kind == "loss":
        return f"the loss of messages with probability {event.amount:g} ends"
    if event.kind == "straggler":
        return f"{who} {'is' if one else 'are'} as fast as before"
    return f"{who} {'is' if one else 'are'} back"


def _who(event: Event, peers: list[int], n: int) -> str:
    if event.unit == "aggregator":
        return f"the aggregator, peer {peers[0]},"
    if event.unit == "peers":
        return f"peer{'s' if len(peers) > 1 else ''} {', '.join(map(str, peers))}"
    chosen = "" if event.rule == "random" else f" ({event.rule})"
    return f"{len(peers)} of {n} peers{chosen}"
