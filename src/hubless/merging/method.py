"""How experts of one base become one model: by a rule alone, or by coefficients that a search tunes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from hubless.errors import ConfigError
from hubless.merging.averages import Slerp
from hubless.merging.merge import Tensors, merge
from hubless.merging.rule import Rule, seeded
from hubless.merging.search import Fitness, Found, cma_es, layers, layerwise, scalar, task_vectors
from hubless.merging.task_vectors import Dare, Elected, TaskArithmetic, TaskVectors

Search = Literal["layer-wise", "scalar", "none"]
Judge = Callable[[Tensors, Tensors], Fitness]


@dataclass(frozen=True)
class Method:
    """How experts become one model.

    rule:   merges whole models; with a search, it says what is kept of the task vectors
    search: coefficients of the task vectors, tuned on validation samples: one a layer and expert, or one for all
    sigma, generations: of CMA-ES
    """

    rule: Rule = field(default_factory=TaskArithmetic)
    search: Search = "layer-wise"
    sigma: float = 0.2
    generations: int = 40

    def __post_init__(self) -> None:
        if self.search != "none" and not isinstance(self.rule, TaskVectors):
            raise ConfigError(
                f"search = {self.search!r}: tunes task vectors, which {type(self.rule).__name__} does not use; take"
                " rule task-arithmetic, ties or dare, or search none"
            )

    def merged(
        self,
        base: Tensors,
        experts: Sequence[Tensors],
        known: Sequence[Tensors] | None,
        judge: Judge,
        seed: int,
    ) -> tuple[dict[str, torch.Tensor], Found | None]:
        """The merged model, and what a search found.

        known: what the rule needs of each expert
        judge: the fitness of coefficients, for a base and task vectors
        """
        if self.search == "none":
            return self._by_rule(base, experts, known, seed), None
        vectors = prepared(self.rule, base, experts, seed)
        shape = (len(layers(base)), len(experts))
        fitness = judge(base, vectors)
        if self.search == "scalar":
            found = scalar(shape, fitness)
        else:
            found = cma_es(shape, fitness, sigma=self.sigma, generations=self.generations, seed=seed % (1 << 32))
        return layerwise(base, vectors, found.coefficients), found

    def _by_rule(
        self,
        base: Tensors,
        experts: Sequence[Tensors],
        known: Sequence[Tensors] | None,
        seed: int,
    ) -> dict[str, torch.Tensor]:
        """By the rule alone: sums of task vectors are made means; arcs go from model to model."""
        rule = self.rule
        origin = base if rule.needs_base else None
        if isinstance(rule, Slerp):
            joint = dict(experts[0])
            for count, expert in enumerate(experts[1:], 1):
                joint = merge(rule, [joint, expert], weights=[count, 1.0])
            return joint
        summed = isinstance(rule, (TaskArithmetic, Dare))
        weights = [1 / len(experts)] * len(experts) if summed else None
        return merge(rule, experts, base=origin, weights=weights, statistics=known, seed=seed)


def prepared(rule: Rule, base: Tensors, experts: Sequence[Tensors], seed: int) -> dict[str, torch.Tensor]:
    """Task vectors ``[E, ...]`` as a rule keeps them: trimmed or thinned, without values of the lesser sign."""
    assert isinstance(rule, TaskVectors)
    vectors = task_vectors(base, experts)
    for name, stack in vectors.items():
        for place, expert in enumerate(experts):
            mask, factor = rule.kept(expert[name], base[name], seeded(seed, name), place)
            if mask is not None:
                stack[place] *= mask.reshape(stack[place].shape)
            stack[place] *= factor
        if isinstance(rule, Elected):
            stack *= stack.sign() == torch.where(stack.sum(0) >= 0, 1, -1)
    return vectors
