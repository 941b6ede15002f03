"""What an exchange costs and loses: bytes, messages, lost ones, rejected ones, simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hubless.learn.plan import Chatter, Exchange
from hubless.net.faults import Weather
from hubless.net.links import Links


@dataclass(frozen=True)
class Traffic:
    """Messages of an exchange to others: ``src``, ``dst``, bytes ``each`` and whether it ``arrived``, all ``[E]``."""

    src: Tensor
    dst: Tensor
    each: Tensor
    arrived: Tensor


Cost = Traffic | Chatter | float  # of an exchange, of small messages, of training in seconds


@dataclass
class Meter:
    """Counts since the start of the run; a message to oneself costs nothing.

    sent:    bytes that each peer sent ``[N]``
    control: those of the messages that carried no model
    held:    whose messages are counted here ``[N]``, where others count the rest; None: everyone's
    costs:   what was counted since somebody last took it, where others count the rest
    """

    sent: Tensor
    messages: int = 0
    lost: int = 0
    rejected: int = 0
    control: int = 0
    clock: float = 0.0
    held: Tensor | None = None
    costs: list[Cost] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The counts as metrics of a record."""
        found = {"bytes": float(self.sent.sum()), "messages": float(self.messages), "clock": self.clock}
        if self.lost:
            found["lost"] = float(self.lost)
        if self.rejected:
            found["rejected"] = float(self.rejected)
        if self.control:
            found["control_messages"] = float(self.control)
        return found

    def scalars(self) -> dict[str, float]:
        """All but the bytes a peer, for a checkpoint."""
        return {name: getattr(self, name) for name in ("messages", "lost", "rejected", "control", "clock")}

    def restore(self, sent: Tensor, scalars: dict[str, float]) -> None:
        """The inverse."""
        self.sent.copy_(sent)
        for name, value in scalars.items():
            setattr(self, name, value)

    def listen(self, chatter: Chatter, links: Links) -> None:
        """Count small messages."""
        self.count(chatter, links)

    def count(self, cost: Cost, links: Links) -> None:
        """Count something."""
        if self.held is not None:
            self.costs.append(cost)
        if isinstance(cost, float):
            self.clock += cost
        elif isinstance(cost, Traffic):
            self.sent.index_add_(0, cost.src, cost.each)
            self.messages += len(cost.src)
            self.lost += int((~cost.arrived).sum())
            self.clock += links.exchange_time(cost.src.numpy(), cost.dst.numpy(), cost.each.numpy())
        else:
            self.sent += cost.sent
            self.messages += cost.messages
            self.control += cost.messages
            self.clock += cost.seconds + cost.trips * 2 * links.latency_ms / 1000

    def gather(self, costs: Sequence[Sequence[Cost]], links: Links) -> None:
        """Count what several shards counted, each its own, in the same order."""
        for same in zip(*costs, strict=True):
            self.count(_together(same), links)


@dataclass(frozen=True)
class Delivery:
    """The edges of an exchange that were sent, and which of them arrived.

    src, dst, weight: ``[E]`` edges whose sender was alive (and had work, where it collects)
    arrived: ``[E]``
    """

    src: Tensor
    dst: Tensor
    weight: Tensor
    arrived: Tensor

    @property
    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """Edges that arrived."""
        if bool(self.arrived.all()):
            return self.src, self.dst, self.weight
        return self.src[self.arrived], self.dst[self.arrived], self.weight[self.arrived]

    @property
    def whole(self) -> bool:
        """Whether everything that was sent arrived."""
        return bool(self.arrived.all())

    def only(self, keep: Tensor) -> Delivery:
        """The edges of a mask ``[E]``."""
        return Delivery(self.src[keep], self.dst[keep], self.weight[keep], self.arrived[keep])


def deliver(exchange: Exchange, weather: Weather, k: int, ready: Tensor | None) -> Delivery:
    """Which messages of an exchange are sent and which arrive; ``ready [N]`` says who has something to send."""
    src, dst, weight = exchange.src, exchange.dst, exchange.weight
    alive = torch.from_numpy(weather.alive)
    if not bool(alive.all()) or ready is not None:
        sending = alive[src] if ready is None else alive[src] & ready[src]
        src, dst, weight = src[sending], dst[sending], weight[sending]
    if not weather.lossy and bool(alive.all()):
        return Delivery(src, dst, weight, torch.ones(len(src), dtype=torch.bool))
    lost = torch.from_numpy(weather.lost(exchange.name, src.numpy(), dst.numpy(), k))
    return Delivery(src, dst, weight, (alive[dst] & ~lost) | (src == dst))


def charge(meter: Meter, delivery: Delivery, sizes: Tensor | int, links: Links) -> None:
    """Count an exchange: ``sizes`` are bytes a message, one for all or one an edge ``[E]``."""
    away = delivery.src != delivery.dst
    if meter.held is not None:
        away &= meter.held[delivery.src]
    src, dst = delivery.src[away], delivery.dst[away]
    each = (
        torch.full((len(src),), float(sizes), dtype=torch.float64) if isinstance(sizes, int) else sizes[away].double()
    )
    meter.count(Traffic(src, dst, each, delivery.arrived[away]), links)


def _together(costs: Sequence[Cost]) -> Cost:
    """One cost of those of several shards: training and waiting take as long as the slowest."""
    traffic = [cost for cost in costs if isinstance(cost, Traffic)]
    if traffic:
        return Traffic(*(torch.cat([getattr(c, name) for c in traffic]) for name in ("src", "dst", "each", "arrived")))
    chatter = [cost for cost in costs if isinstance(cost, Chatter)]
    if chatter:
        sent = torch.stack([cost.sent for cost in chatter]).sum(0)
        trips, seconds = max(cost.trips for cost in chatter), max(cost.seconds for cost in chatter)
        return Chatter(sent, sum(cost.messages for cost in chatter), trips, seconds)
    return max(cost for cost in costs if isinstance(cost, float))
