"""What a partition is: which samples each peer holds, and how a peer's inputs look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError
from hubless.parts import part

Rows = NDArray[np.int64]


class Partition(ABC):
    """Splits a population's samples among its peers, losing and repeating none.

    needs_labels: it goes by classes; needs_inputs: it goes by the inputs, which ``split`` then gets for targets
    """

    needs_labels = False
    needs_inputs = False

    def split(self, y: NDArray[Any], peers: int, seed: int) -> list[Rows]:
        """Sorted sample numbers of every peer: disjoint, none empty, together ``range(len(y))``.

        ``y`` are the targets [M, ...], or the inputs where these are needed; the same seed gives the same split.
        Raises ConfigError when there are fewer samples than peers, or when a partition by class meets targets that
        are not classes.
        """
        if peers < 1 or len(y) < peers:
            raise ConfigError(f"partition: {len(y)} samples cannot be split among {peers} peers, one each at least")
        if self.needs_labels and not (y.ndim == 1 and y.dtype.kind in "iu"):
            kind = "regression targets" if y.dtype.kind == "f" else f"targets of shape {y.shape}"
            raise ConfigError(f"partition: {self} needs class labels, not {kind}; use iid or quantity")
        held = self.deal(y, peers, np.random.default_rng([seed, 0xDEA1]))
        return [np.sort(rows).astype(np.int64) for rows in held]

    @abstractmethod
    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """The rows of every peer, in any order; ``split`` has checked the arguments."""

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """The inputs [M, ...] as this peer sees them; unchanged, unless the partition shifts features."""
        return x


@part("partition", "iid")
@dataclass(frozen=True)
class IID(Partition):
    """Samples dealt at random, as equally as they go."""

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """Equal parts of one permutation."""
        return np.array_split(rng.permutation(len(y)), peers)


def counts(held: Sequence[Rows], y: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Samples of every class at every peer: [peers, classes]."""
    return np.stack([np.bincount(y[rows], minlength=classes) for rows in held]).astype(np.int64)
