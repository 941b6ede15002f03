"""What a simulated link does to frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hubless.errors import ConfigError

POSITIONS = 1 << 30  # peers lie at random ones; how far apart two are is their exclusive or, which is a metric


@dataclass(frozen=True)
class Link:
    """How frames travel between two peers.

    latency:   seconds one way: a number, or the range in which each pair has its own, as long there as back
    jitter:    up to so many seconds more, drawn a frame; frames still arrive in order
    loss:      probability that a frame does not arrive
    bandwidth: bytes/s of a sender's uplink, on which its frames queue; 0: no limit
    duplicate: probability that a frame arrives twice
    reorder:   probability that a frame is held back, by up to one more latency, and later ones overtake it

    Raises ConfigError for values out of range.
    """

    latency: float | tuple[float, float] = (0.02, 0.15)
    jitter: float = 0.0
    loss: float = 0.0
    bandwidth: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.range
        if not (0 <= least <= most < math.inf):
            raise ConfigError(f"link.latency = {self.latency}: must be seconds, or a range of them, from 0 up")
        for name in ("jitter", "bandwidth"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"link.{name} = {value}: must be 0 or more")
        for name in ("loss", "duplicate", "reorder"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"link.{name} = {value}: must be from 0 to 1")

    @property
    def range(self) -> tuple[float, float]:
        """Least and most seconds of latency."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)

    @property
    def steady(self) -> bool:
        """Whether a frame takes the latency and nothing else happens to it."""
        return not (self.jitter or self.loss or self.bandwidth or self.duplicate or self.reorder)

    def delay(self, apart: int) -> float:
        """Seconds of latency between two peers that lie ``apart``."""
        least, most = self.range
        return least + (most - least) * apart / POSITIONS
