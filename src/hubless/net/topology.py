"""What a topology is: a rule that gives the edges of every round."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields

import numpy as np

from hubless.errors import ConfigError
from hubless.net.edges import Edges

TRIES = 100
LONGEST_PERIOD = 64


class Topology(ABC):
    """Base of all topologies, which are frozen dataclasses."""

    @abstractmethod
    def _edges(self, n: int, t: int, seed: int) -> Edges:
        """The edges of two peers or more that have no ``_trouble``; this is what a new topology defines."""

    def _trouble(self, n: int) -> str | None:
        """Why ``n`` peers, two or more, cannot form this topology, in words; None where they can."""
        return None

    def period(self, n: int) -> int | None:
        """1: the same edges in every round; k: they repeat after k rounds; None: a new draw every round."""
        return 1

    def edges(self, n: int, t: int = 0, seed: int = 0) -> Edges:
        """The edges among ``n`` peers in round ``t``; they follow from (n, t, seed) alone. Callers cache them.

        Raises ConfigError if ``n`` peers cannot form this topology, or no draw is connected.
        """
        if n < 1:
            raise ConfigError(f"{self} needs at least 1 peer, not {n}")
        if said := self.trouble(n):
            raise ConfigError(f"{self} with {n} peers: {said}")
        return self._edges(n, t, seed) if n > 1 else Edges.of(1, [], [])

    def trouble(self, n: int) -> str | None:
        """Why ``n`` peers cannot form this topology, in words; None where they can. One peer alone always can."""
        return self._trouble(n) if n > 1 else None

    def check(self, n: int, where: str = "topology", seed: int = 0) -> None:
        """Raise ConfigError, naming the option ``where``, if ``n`` peers cannot form it or it falls apart.

        A topology that repeats must be connected when the edges of one period are taken together; one that is
        drawn anew every round need not be.
        """
        period = self.period(n) if n > 1 else 1
        try:
            if period is None or period > LONGEST_PERIOD:
                self.edges(n, 0, seed)
                return
            rounds = [self.edges(n, t, seed) for t in range(period)]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        union = Edges.of(
            n, np.concatenate([e.src for e in rounds]), np.concatenate([e.dst for e in rounds]), both=False
        )
        pieces = len(np.unique(union.components()))
        if pieces > 1:
            raise ConfigError(
                f"{where}: {self} with {n} peers is not connected: it falls into {pieces} components; "
                "add edges or choose another topology"
            )

    def __str__(self) -> str:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        return ":".join([name, *(f"{f.name}={getattr(self, f.name)}" for f in fields(self))])  # type: ignore[arg-type]


def until_connected(topology: Topology, n: int, draw: Callable[[], Edges], advice: str = "") -> Edges:
    """The first connected one of at most ``TRIES`` draws; ConfigError where there is none."""
    for _ in range(TRIES):
        edges = draw()
        if edges.connected:
            return edges
    raise ConfigError(f"{topology} with {n} peers: none of {TRIES} draws was connected{advice}")
