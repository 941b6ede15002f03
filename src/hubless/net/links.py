"""How long things take on simulated peers and links: time in a run is computed, never measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hubless.errors import ConfigError, did_you_mean
from hubless.net.keyed import uniform

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Links:
    """Speed of every peer's connection and of its computing.

    latency_ms:         milliseconds from any peer to any other
    bandwidth_mbit:     Mbit/s of a peer's connection, as much up as down
    samples_per_second: training samples that a peer works through in a second
    spread:             how unequal peers are: standard deviation of the logarithm of a factor, drawn for each peer's
                        latency, bandwidth and speed; 0: all alike
    seed:               of these draws

    Raises ConfigError for values that are not finite or out of range.
    """

    latency_ms: float = 50.0
    bandwidth_mbit: float = 20.0
    samples_per_second: float = 2000.0
    spread: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("latency_ms", 0.0),
            ("bandwidth_mbit", None),
            ("samples_per_second", None),
            ("spread", 0.0),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                raise ConfigError(f"links: {name} = {value:g} must be {'positive' if least is None else '0 or more'}")

    @staticmethod
    def of(text: str, *, seed: int = 0, where: str = "links") -> Links:
        """``LATENCY:BANDWIDTH`` in ms and Mbit/s, ``samples_per_second=..`` and ``spread=..`` after them.

        Raises ConfigError, naming ``where``, for anything else.
        """
        latency, *rest = text.split(":")
        if not rest:
            raise ConfigError(f"{where}: {text!r} must be LATENCY:BANDWIDTH in ms and Mbit/s, as in '50:20'")
        given = {"latency_ms": latency, "bandwidth_mbit": rest[0]}
        allowed = [f.name for f in fields(Links) if f.name not in (*given, "seed")]
        for word in rest[1:]:
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in allowed:
                raise ConfigError(f"{where}: {text!r}: unknown value {name!r}; {did_you_mean(name, allowed)}")
            given[name] = value
        numbers = {}
        for name, value in given.items():
            try:
                numbers[name] = float(value)
            except ValueError:
                raise ConfigError(f"{where}: {text!r}: {name} = {value!r} must be a number") from None
        try:
            return Links(seed=seed, **numbers)
        except ConfigError as error:
            raise ConfigError(f"{where}: {text!r}: {str(error).removeprefix('links: ')}") from None

    def train_time(self, samples: ArrayLike, slow: ArrayLike = 1.0) -> Floats:
        """[n] seconds in which each peer works through its ``samples`` [n] (all epochs), ``slow`` [n] times slower."""
        work = np.asarray(samples, dtype=np.float64)
        seconds: Floats = work * np.asarray(slow) / (self.samples_per_second * self._factor("speed", len(work)))
        return seconds

    def exchange_time(self, src: ArrayLike, dst: ArrayLike, bytes_per_edge: ArrayLike) -> float:
        """Seconds of one synchronous exchange of ``bytes_per_edge`` (a number, or [E]) over the edges src -> dst [E].

        A peer needs its latency, then the larger of all it sends and all it receives over its bandwidth; the
        exchange ends with the slowest. What a peer keeps for itself is free; no message takes no time.
        """
        a, b = np.asarray(src, dtype=np.int64), np.asarray(dst, dtype=np.int64)
        size = np.broadcast_to(np.asarray(bytes_per_edge, dtype=np.float64), a.shape)[a != b]
        a, b = a[a != b], b[a != b]
        if not len(a):
            return 0.0
        n = int(max(a.max(), b.max())) + 1
        load = np.maximum(np.bincount(a, size, n), np.bincount(b, size, n))
        busy = np.union1d(a, b)
        rate = self.bandwidth_mbit * 1e6 / 8 * self._factor("bandwidth", n)
        latency = self.latency_ms / 1e3 * self._factor("latency", n)
        return float((latency + load / rate)[busy].max())

    def _factor(self, what: str, n: int) -> Floats:
        """[n] log-normal factors of median 1, one a peer (Box-Muller on keyed numbers)."""
        if self.spread == 0:
            return np.ones(n)
        ids = np.arange(n)
        radius = np.sqrt(-2 * np.log1p(-uniform(f"{what} radius", self.seed, ids)))
        factors: Floats = np.exp(self.spread * radius * np.cos(2 * np.pi * uniform(f"{what} angle", self.seed, ids)))
        return factors
