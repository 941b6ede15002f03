"""Rules: how the tensors of one name, one a model, become one.

A rule is a frozen part of the kind ``rule``, so ``ties:0.5`` names one. It sees one tensor of each model at a time and
knows nothing of files or of peers. It works in float32 (float64 where a model has that), block by block, so that it
needs little memory beside its input and its answer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hubless.errors import ConfigError

BLOCK = 1 << 18  # values of one model that are in hand at a time
Draw = Callable[[int, int], Tensor]  # (model, count) -> uniform numbers in [0, 1) [count]


@dataclass(frozen=True)
class Beside:
    """What a rule knows beside the M tensors of one name.

    weights:    ``[M]``, double precision
    base:       the tensor that all models were fine-tuned from
    statistics: one tensor a model, of the kind that the rule names; None: there are none for this name
    draw:       random numbers of a model
    """

    weights: Tensor
    base: Tensor | None = None
    statistics: Sequence[Tensor] | None = None
    draw: Draw | None = None

    @property
    def shares(self) -> Tensor:
        """The weights as shares that sum to 1."""
        return self.weights / self.weights.sum()


class Rule:
    """How M tensors of one name and shape become one.

    needs_base: it works on task vectors, the differences from a common base
    statistics: what it needs of each model beside its tensors: ``fisher``, ``gram``, or nothing
    models:     how many it takes; None: any number
    negative:   whether a weight may be below 0
    """

    needs_base: ClassVar[bool] = False
    statistics: ClassVar[str] = ""
    models: ClassVar[int | None] = None
    negative: ClassVar[bool] = False

    def __call__(
        self,
        tensors: Sequence[Tensor],
        *,
        weights: Sequence[float] | None = None,
        base: Tensor | None = None,
        statistics: Sequence[Tensor] | None = None,
        draw: Draw | None = None,
    ) -> Tensor:
        """The merged tensor, in the precision of the work; nothing given is changed.

        weights: one a model; None: 1 each
        draw:    see ``seeded``; for rules that drop values at random
        Raises ConfigError for weights that cannot be, or where a base or a draw is lacking.
        """
        self.check(len(tensors), weights, base is not None)
        given = [1.0] * len(tensors) if weights is None else weights
        weight = torch.tensor(given, dtype=torch.float64, device=tensors[0].device)
        return self.merge(tensors, Beside(weight, base, statistics, draw))

    def merge(self, tensors: Sequence[Tensor], beside: Beside) -> Tensor:
        """The merged tensor, of arguments that were checked."""
        raise NotImplementedError

    def statistic(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of one model's statistics of a tensor; None: such a tensor has none."""
        return None

    def check(self, models: int, weights: Sequence[float] | None, base: bool) -> None:
        """Raise ConfigError when so many models, such weights or the lack of a base cannot work."""
        name = type(self).__name__
        if models < 1 or (self.models is not None and models != self.models):
            raise ConfigError(f"models: {name} merges {self.models or 'one or more'}, not {models}")
        if self.needs_base and not base:
            raise ConfigError(f"base: {name} needs the model that all others were fine-tuned from")
        if weights is None:
            return
        said = ", ".join(f"{weight:g}" for weight in weights)
        if len(weights) != models:
            raise ConfigError(f"weights = {said}: must be one a model, and there are {models}")
        if not all(math.isfinite(weight) for weight in weights):
            raise ConfigError(f"weights = {said}: must be finite")
        if not self.negative and (min(weights) < 0 or not sum(weights) > 0):
            raise ConfigError(f"weights = {said}: {name} needs 0 or more, and one above 0")


def seeded(seed: int, name: str) -> Draw:
    """Draws that depend on the seed, the tensor's name and the model's place among the models only."""

    def draw(model: int, count: int) -> Tensor:
        digest = hashlib.blake2b(f"{seed}/{model}/{name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.rand(count, generator=generator)

    return draw


def precision(tensors: Sequence[Tensor]) -> torch.dtype:
    """What to compute in: float32, or float64 where one of the tensors has it."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def blocks(tensors: Sequence[Tensor], base: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """Where in the flattened tensors, and their new values there ``[M, c]``, less the base's where one is given."""
    kind = precision(tensors)
    flat = [tensor.reshape(-1) for tensor in tensors]
    origin = None if base is None else base.reshape(-1)
    for first in range(0, flat[0].numel(), BLOCK):
        at = slice(first, first + BLOCK)
        values = torch.stack([one[at].to(kind) for one in flat])
        yield at, values if origin is None else values.sub_(origin[at].to(kind))


def empty(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A tensor for the answer, and the same one flat, to be filled block by block."""
    answer = torch.empty(tensors[0].shape, dtype=precision(tensors), device=tensors[0].device)
    return answer, answer.view(-1)
