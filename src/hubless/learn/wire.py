"""What an exchange costs and loses: bytes, messages, lost ones, rejected ones, simulated time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hubless.learn.plan import Chatter, Exchange
from hubless.net.faults import Weather
from hubless.net.links import Links


@dataclass
class Meter:
    """Counts since the start of the run; a message to oneself costs nothing.

    sent:    bytes that each peer sent ``[N]``
    control: those of the messages that carried no model
    """

    sent: Tensor
    messages: int = 0
    lost: int = 0
    rejected: int = 0
    control: int = 0
    clock: float = 0.0

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
        self.sent += chatter.sent
        self.messages += chatter.messages
        self.control += chatter.messages
        self.clock += chatter.seconds + chatter.trips * 2 * links.latency_ms / 1000


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
    src, dst = delivery.src[away], delivery.dst[away]
    each = (
        torch.full((len(src),), float(sizes), dtype=torch.float64) if isinstance(sizes, int) else sizes[away].double()
    )
    meter.sent.index_add_(0, src, each)
    meter.messages += len(src)
    meter.lost += int((~delivery.arrived[away]).sum())
    meter.clock += links.exchange_time(src.numpy(), dst.numpy(), each.numpy())
