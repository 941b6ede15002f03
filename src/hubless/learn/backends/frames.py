"""What a driver and its workers say to each other, as bytes: tensors as they are, the rest as msgpack."""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor

from hubless.learn.codecs import Raw
from hubless.learn.plan import Chatter, Exchange, Plan, Train
from hubless.learn.shards import Report
from hubless.learn.swaps import Packets
from hubless.learn.wire import Cost, Traffic
from hubless.learn.wiring import Told

PLAIN = Raw()


class Build(msgspec.Struct, tag=True):
    """Build the experiment of a recipe with these options, and hold some peers of it.

    shards:  peers of every worker; ``mine`` is this worker's place among them
    threads: side by side in a worker; ``inner`` those of one operation, on which the rounding of a product depends
    """

    source: str
    options: dict[str, Any]
    shards: list[list[int]]
    mine: int
    threads: int
    inner: int


class Begin(msgspec.Struct, tag=True):
    """Run a round: its plan (tensors in ``data``), who is excluded, and whom the schedule's events hit."""

    t: int
    steps: list[dict[str, Any]]
    data: bytes
    excluded: list[int]
    faults: dict[str, list[int]]


class Heard(msgspec.Struct, tag=True):
    """What other workers say to this one: packed packets, one of each worker."""

    packets: list[bytes]


class Restore(msgspec.Struct, tag=True):
    """Take up a state."""

    data: bytes
    scalars: dict[str, Any]


class Give(msgspec.Struct, tag=True):
    """Ask for the state."""


Command = Build | Begin | Heard | Restore | Give


class Spoke(msgspec.Struct, tag=True):
    """What a worker says to every worker, packed; it waits for what they say."""

    packets: list[bytes]


class Done(msgspec.Struct, tag=True):
    """A round's report, tensors in ``data``."""

    holders: list[int] | None
    rejected: int
    costs: list[dict[str, Any]]
    events: list[tuple[list[int], str, int]]
    excluded: list[int]
    reports: dict[str, list[int]]
    data: bytes


class Ready(msgspec.Struct, tag=True):
    """Built, or restored."""

    pid: int


class State(msgspec.Struct, tag=True):
    """The state of a shard."""

    data: bytes
    scalars: dict[str, Any]


class Failed(msgspec.Struct, tag=True):
    """An error, with its traceback in words; peer and round where it has them."""

    kind: str
    text: str
    trace: str
    peer: int = -1
    round: int = -1


Answer = Spoke | Done | Ready | State | Failed

_commands = msgspec.msgpack.Decoder(Command)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(said: Command | Answer) -> bytes:
    """As bytes."""
    return msgspec.msgpack.encode(said)


def command(data: bytes) -> Command:
    """What a driver said."""
    found: Command = _commands.decode(data)
    return found


def answer(data: bytes) -> Answer:
    """What a worker said."""
    found: Answer = _answers.decode(data)
    return found


def packed(packets: Packets) -> bytes:
    """Messages by address."""
    return msgspec.msgpack.encode([(sender, to, data) for (sender, to), data in packets.items()])


def unpacked(data: bytes) -> Packets:
    """The inverse."""
    found = msgspec.msgpack.decode(data, type=list[tuple[int, int | None, bytes]])
    return {(sender, to): body for sender, to, body in found}


def begin(t: int, plan: Plan, excluded: list[int], faults: dict[str, list[int]]) -> Begin:
    """A round's command."""
    steps: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for k, step in enumerate(plan):
        if isinstance(step, Train):
            steps.append({"roles": list(step.roles), "after": step.after})
            tensors |= {f"{k}/{role}": peers for role, peers in step.roles.items()}
            continue
        steps.append({"name": step.name, "collect": step.collect, "parts": step.parts})
        tensors |= {f"{k}/src": step.src, f"{k}/dst": step.dst, f"{k}/weight": step.weight}
        if step.part is not None:
            tensors[f"{k}/part"] = step.part
    return Begin(t, steps, PLAIN.pack(tensors), excluded, faults)


def plan_of(said: Begin) -> Plan:
    """The plan of a command."""
    tensors = PLAIN.unpack(said.data)
    steps: list[Train | Exchange] = []
    for k, step in enumerate(said.steps):
        if "roles" in step:
            steps.append(Train({role: tensors[f"{k}/{role}"] for role in step["roles"]}, step["after"]))
        else:
            src, dst, weight = (tensors[f"{k}/{name}"] for name in ("src", "dst", "weight"))
            part = tensors.get(f"{k}/part")
            steps.append(Exchange(step["name"], src, dst, weight, step["collect"], part, step["parts"]))
    return tuple(steps)


def done(report: Report) -> Done:
    """A report's answer."""
    tensors = {"trained": report.trained, "losses": report.losses, "places": report.places}
    costs: list[dict[str, Any]] = []
    for at, cost in enumerate(report.costs):
        if isinstance(cost, Traffic):
            costs.append({})
            tensors |= {f"cost.{at}/{name}": getattr(cost, name) for name in ("src", "dst", "each", "arrived")}
        elif isinstance(cost, Chatter):
            costs.append({"messages": cost.messages, "trips": cost.trips, "seconds": cost.seconds})
            tensors[f"cost.{at}/sent"] = cost.sent
        else:
            costs.append({"work": cost})
    reports = {}
    for name, values in report.reports.items():
        reports[name] = list(values)
        tensors |= {f"report/{name}/{peer}": value for peer, value in values.items()}
    events = [(list(told.order), told.text, told.times) for told in report.events]
    return Done(report.holders, report.rejected, costs, events, report.excluded, reports, PLAIN.pack(tensors))


def report_of(said: Done) -> Report:
    """The report of an answer."""
    tensors = PLAIN.unpack(said.data)
    costs: list[Cost] = []
    for at, cost in enumerate(said.costs):
        if "work" in cost:
            costs.append(float(cost["work"]))
        elif cost:
            costs.append(Chatter(tensors[f"cost.{at}/sent"], **cost))
        else:
            costs.append(Traffic(*(tensors[f"cost.{at}/{name}"] for name in ("src", "dst", "each", "arrived"))))
    return Report(
        tensors["trained"], said.holders, costs, said.rejected, tensors["losses"], tensors["places"],
        [Told(tuple(order), text, times) for order, text, times in said.events], said.excluded,
        {name: {peer: tensors[f"report/{name}/{peer}"] for peer in peers} for name, peers in said.reports.items()},
    )  # fmt: skip


def losses(reports: list[Report]) -> Tensor:
    """Losses of all that trained, in the order of a population that is held in one piece."""
    every = torch.cat([report.losses for report in reports])
    return every[torch.argsort(torch.cat([report.places for report in reports]), stable=True)]


def events(reports: list[Report]) -> list[Told]:
    """What went wrong, in the same order, once: what several shards found counts for all of them together."""
    found: dict[tuple[tuple[int, ...], str], Told] = {}
    for told in sorted(told for report in reports for told in report.events):
        front, case, _ = told.text.partition("{times};")
        key = (told.order[:2], front) if case else (told.order, told.text)
        first = found.setdefault(key, told)
        if first is not told and "{times}" in told.text:
            found[key] = first._replace(times=first.times + told.times)
    return list(found.values())
