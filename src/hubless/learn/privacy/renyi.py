"""Renyi divergences of discrete mechanisms, from their exact probabilities.

``D_alpha(P || Q) = log(sum p^alpha q^(1 - alpha)) / (alpha - 1)`` (arXiv 1702.07476, definition 3), always in the log
domain: the powers overflow at ten peers. ``alpha = inf`` is ``max log(p / q)``, pure differential privacy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError

Array = NDArray[np.float64]
INPUTS = 16  # so many inputs are tried in sums of several peers; their number enters with its cube


def divergence(p: Array, q: Array, alpha: float) -> float:
    """``D_alpha(P || Q)`` of two log-probability vectors ``[K]``; inf where P can what Q cannot.

    Raises ConfigError for alpha that is not above 1.
    """
    if not alpha > 1:
        raise ConfigError(f"alpha = {alpha:g}: must be above 1")
    seen = p > -math.inf
    p, q = p[seen], q[seen]
    if bool(np.isneginf(q).any()):
        return math.inf
    if math.isinf(alpha):
        return float((p - q).max())
    terms = alpha * p - (alpha - 1) * q
    top = terms.max()
    return max(0.0, float(top + np.log(np.exp(terms - top).sum())) / (alpha - 1))


def convolve(a: Array, b: Array) -> Array:
    """Log-probabilities of the sum of two independent non-negative integers."""
    total = np.full(len(a) + len(b) - 1, -math.inf)
    for shift, value in enumerate(b):
        here = total[shift : shift + len(a)]
        np.logaddexp(here, a + value, out=here)
    return total


@dataclass(frozen=True)
class RenyiAccountant:
    """What one coordinate tells about the peer that it belongs to, in the worst case over given inputs.

    pmfs: probabilities of the outcomes 0, 1, ..., a tuple for each input that a peer may have

    With one peer the worst case is over all pairs of these inputs. In a sum of several, the others are all at one
    input, whichever is worst; that other mixtures are no worse is not proved. Subsampling is not counted.
    """

    pmfs: tuple[tuple[float, ...], ...]
    _found: dict[tuple[float, int], float] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.pmfs) < 2 or len({len(pmf) for pmf in self.pmfs}) > 1:
            raise ConfigError("accountant: it takes the probabilities of the same outcomes for two inputs or more")
        for pmf in self.pmfs:
            if min(pmf) < 0 or abs(math.fsum(pmf) - 1) > 1e-9:
                raise ConfigError(f"accountant: probabilities must sum to 1, not {math.fsum(pmf):g}")

    @cached_property
    def _logs(self) -> list[Array]:
        with np.errstate(divide="ignore"):
            return [np.log(np.array(pmf)) for pmf in self.pmfs]

    def epsilon(self, alpha: float, peers: int = 1) -> float:
        """Divergence of one use of one coordinate, where only the sum over ``peers`` is seen; inf where it is.

        Raises ConfigError for alpha that is not above 1, and for less than one peer.
        """
        if peers < 1:
            raise ConfigError(f"peers = {peers}: must be at least 1")
        if (alpha, peers) not in self._found:
            self._found[alpha, peers] = max(self._worst(logs, alpha) for logs in self._sums(peers))
        return self._found[alpha, peers]

    def total(self, alpha: float, coordinates: int, rounds: int, peers: int = 1) -> float:
        """Divergence of a whole run: divergences add up over coordinates and rounds (arXiv 1702.07476, proposition 1).

        It bounds what is told about a peer that takes part in every round. ``alpha = inf`` adds up pure epsilons.
        """
        return coordinates * rounds * self.epsilon(alpha, peers) if coordinates * rounds else 0.0

    @staticmethod
    def _worst(logs: list[Array], alpha: float) -> float:
        return max(divergence(p, q, alpha) for p in logs for q in logs if p is not q)

    def _sums(self, peers: int) -> Iterator[list[Array]]:
        """For each input of the others, log-probabilities of the sum for each input of the peer in question."""
        if peers == 1:
            yield self._logs
            return
        places = np.linspace(0, len(self._logs) - 1, min(len(self._logs), INPUTS)).round().astype(int)
        logs = [self._logs[place] for place in places]
        for other in logs:
            rest = other
            for _ in range(peers - 2):
                rest = convolve(rest, other)
            yield [convolve(rest, own) for own in logs]
