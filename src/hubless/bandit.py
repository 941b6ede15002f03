"""LinUCB: a linear contextual bandit with an upper confidence bound (Li et al. 2010, arXiv 1003.0146, algorithm 1).

One ridge regression is shared by all arms: an arm is its context. KNEXA-FL (arXiv 2601.17133) adds that the width of
the bound shrinks with the rounds and that rewards may be standardised by their running mean and deviation. The part
knows nothing of what it chooses among. Its state is a message: named tensors, to be kept, sent and taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hubless.errors import ConfigError

Memory = dict[str, Tensor]
Array = NDArray[np.float64]
FLOOR = 1e-6  # added to the deviation of the rewards


@dataclass(frozen=True)
class LinUCB:
    """``score = theta . x + beta_t sqrt(x' A^-1 x)``, where ``A = ridge I + sum x x'`` and ``theta = A^-1 sum r x``.

    width:    numbers in a context (d)
    ridge:    weight of the prior (lambda); above 0, so that A is positive definite
    beta:     width of the bound in round 1; in round t it is ``beta / sqrt(t)``
    standard: rewards are standardised by the mean and deviation of all so far, the new ones among them
    """

    width: int
    ridge: float = 1.0
    beta: float = 1.0
    standard: bool = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"bandit.width = {self.width}: must be at least 1")
        if not 0 < self.ridge < np.inf:
            raise ConfigError(f"bandit.ridge = {self.ridge}: must be above 0 and finite")
        if not 0 <= self.beta < np.inf:
            raise ConfigError(f"bandit.beta = {self.beta}: must be at least 0 and finite")

    def init(self) -> Memory:
        """A state that knows nothing: ``A [d, d]``, ``b [d]``, and number, mean and squared spread of the rewards."""
        zero = torch.zeros((), dtype=torch.float64)
        return {
            "A": self.ridge * torch.eye(self.width, dtype=torch.float64),
            "b": torch.zeros(self.width, dtype=torch.float64),
            "count": torch.zeros((), dtype=torch.int64),
            "mean": zero,
            "spread": zero.clone(),
        }

    def scores(self, memory: Memory, contexts: ArrayLike, t: int) -> Array:
        """Upper bounds ``[M]`` on the rewards of contexts ``[M, d]`` in round t, from 1.

        A is solved once for all contexts, by Cholesky's decomposition, and never inverted. Raises ConfigError for
        contexts of another width or that are not finite, and for a state of another bandit.
        """
        x = self._contexts(contexts)
        A, b = self._state(memory)
        factor = np.linalg.cholesky(A)
        y, z = np.linalg.solve(factor, x.T), np.linalg.solve(factor, b)
        bounds = z @ y + self.beta / np.sqrt(max(t, 1)) * np.sqrt((y * y).sum(0))
        return np.asarray(bounds, np.float64)

    def theta(self, memory: Memory) -> Array:
        """What a unit of each entry of a context is believed to be worth ``[d]``."""
        return np.asarray(np.linalg.solve(*self._state(memory)), np.float64)

    def update(self, memory: Memory, contexts: ArrayLike, rewards: ArrayLike) -> Memory:
        """The state after contexts ``[M, d]`` brought ``rewards [M]``.

        Raises ConfigError for what ``scores`` refuses, and for rewards that are too many, too few or not finite.
        """
        x, r = self._contexts(contexts), np.asarray(rewards, dtype=np.float64)
        if r.shape != (len(x),):
            raise ConfigError(f"bandit.rewards: must be one for each of {len(x)} contexts, not of shape {r.shape}")
        if bad := np.flatnonzero(~np.isfinite(r)).tolist():
            raise ConfigError(f"bandit.rewards[{bad[0]}] = {r[bad[0]]}: must be finite")
        A, b = self._state(memory)
        count, mean, spread = _moments(int(memory["count"]), float(memory["mean"]), float(memory["spread"]), r)
        if self.standard:
            r = (r - mean) / (np.sqrt(spread / max(count, 1)) + FLOOR)
        grown = A + x.T @ x
        return {
            "A": torch.from_numpy((grown + grown.T) / 2),  # rounding must not make it lopsided
            "b": torch.from_numpy(b + x.T @ r),
            "count": torch.tensor(count),
            "mean": torch.tensor(mean, dtype=torch.float64),
            "spread": torch.tensor(spread, dtype=torch.float64),
        }

    def _contexts(self, contexts: ArrayLike) -> Array:
        x = np.asarray(contexts, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ConfigError(f"bandit.contexts: must be of shape [M, {self.width}], not {list(x.shape)}")
        if not np.isfinite(x).all():
            raise ConfigError("bandit.contexts: must be finite")
        return x

    def _state(self, memory: Memory) -> tuple[Array, Array]:
        wanted: dict[str, Any] = {name: value.shape for name, value in self.init().items()}
        for name, shape in wanted.items():
            if name not in memory or memory[name].shape != shape:
                found = list(memory[name].shape) if name in memory else "missing"
                raise ConfigError(f"bandit.{name}: a state of {self.width} numbers has {list(shape)}, this is {found}")
        return memory["A"].numpy(), memory["b"].numpy()


def _moments(count: int, mean: float, spread: float, r: Array) -> tuple[int, float, float]:
    """Number, mean and sum of squared distances from the mean of rewards so far, with more (Chan et al. 1979)."""
    if not len(r):
        return count, mean, spread
    total, gap = count + len(r), float(r.mean()) - mean
    return (
        total,
        mean + gap * len(r) / total,
        spread + float(((r - r.mean()) ** 2).sum()) + gap * gap * count * len(r) / total,
    )
