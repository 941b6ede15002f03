"""Task vectors with a coefficient for every layer and expert, and an evolution strategy that searches these.

``theta^l = theta_0^l + sum_e c[l, e] tau_e^l`` with ``tau_e = theta_e - theta_0`` (arXiv 2212.04089, a coefficient a
layer as in arXiv 2410.13699). The search is CMA-ES (Hansen 2016, arXiv 1604.00772) as the library ``cmaes`` has it. All
candidates of a generation are handed over together, so that they can be evaluated as one stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hubless.errors import ConfigError, HublessError
from hubless.merging.alike import check_alike
from hubless.merging.merge import Tensors, shapes

Fitness = Callable[[Tensor], Tensor]
HIGHEST = 1.5


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to: its block where blocks are numbered, else its module.

    ``blocks.1.mixer.weight`` -> ``blocks.1``, ``head.bias`` -> ``head``; embeddings and heads are layers, too.
    """
    steps = parameter.split(".")
    numbered = next((at for at, step in enumerate(steps[:-1]) if step.isdigit()), None)
    return ".".join(steps[: numbered + 1]) if numbered is not None else ".".join(steps[:-1]) or parameter


def layers(parameters: Iterable[str]) -> dict[str, list[str]]:
    """The layers of a model in order, each with its parameters."""
    found: dict[str, list[str]] = {}
    for name in parameters:
        found.setdefault(layer_of(name), []).append(name)
    return found


def task_vectors(base: Tensors, experts: Sequence[Tensors]) -> dict[str, Tensor]:
    """``theta_e - theta_0`` of every expert by name: ``[E, ...]``.

    Raises ConfigError, with the tensors, for an expert whose names or shapes are not those of the base.
    """
    if not experts:
        raise ConfigError("merge: there are no experts")
    check_alike({"the base": shapes(base)} | {f"expert {at}": shapes(expert) for at, expert in enumerate(experts)})
    return {name: torch.stack([expert[name] for expert in experts]) - value for name, value in base.items()}


def layerwise(base: Tensors, vectors: Tensors, coefficients: Tensor) -> dict[str, Tensor]:
    """The merged model for coefficients ``[L, E]``, or a stack of models for ``[P, L, E]``.

    vectors: as ``task_vectors`` gives them

    Raises ConfigError for coefficients of another shape than layers and experts.
    """
    table = layers(base)
    experts = len(next(iter(vectors.values())))
    if coefficients.dim() not in (2, 3) or tuple(coefficients.shape[-2:]) != (len(table), experts):
        raise ConfigError(
            f"merge: coefficients of shape {tuple(coefficients.shape)}: this model needs a row for each of its"
            f" {len(table)} layers and a column for each of {experts} experts"
        )
    merged = {}
    for at, names in enumerate(table.values()):
        share = coefficients[..., at, :].to(torch.float32)
        for name in names:
            merged[name] = base[name] + torch.tensordot(share, vectors[name], dims=1)
    return {name: merged[name] for name in base}


@dataclass(frozen=True)
class Found:
    """What a search came to.

    coefficients: ``[L, E]``, the best of all that were tried
    fitness:      theirs
    best, mean:   of each generation: the best fitness so far, and its candidates' mean
    """

    coefficients: Tensor
    fitness: float
    best: list[float]
    mean: list[float]


def cma_es(
    shape: tuple[int, int],
    fitness: Fitness,
    *,
    start: float | None = None,
    sigma: float = 0.2,
    generations: int = 40,
    highest: float = HIGHEST,
    seed: int = 0,
) -> Found:
    """Search coefficients ``[L, E]`` in [0, highest] that have the highest fitness.

    fitness: candidates ``[P, L, E]`` to one value each ``[P]``, on validation data
    start:   of all coefficients; None means 1 / E, where the merged model is the experts' mean
    sigma:   standard deviation of the first generation

    A generation has ``4 + floor(3 ln n)`` candidates for n coefficients; the start is tried before the first one. Ends
    early when the strategy has converged. Raises ConfigError for settings that cannot work, and HublessError for a
    fitness that is not finite.
    """
    layer_count, experts = shape
    first = 1 / experts if start is None else start
    if not 0 <= first <= highest:
        raise ConfigError(f"search.start = {first:g}: must be in [0, {highest:g}]")
    if sigma <= 0 or generations < 1:
        raise ConfigError(f"search: sigma = {sigma:g} must be positive and generations = {generations} at least 1")
    optimiser = _library().CMA(
        mean=np.full(layer_count * experts, first), sigma=sigma, seed=seed,
        bounds=np.tile([0.0, highest], (layer_count * experts, 1)),
    )  # fmt: skip
    best = torch.full(shape, first, dtype=torch.float64)
    top = _measured(fitness, best[None], 0)[0]
    bests, means = [top], [top]
    for generation in range(1, generations + 1):
        asked = [optimiser.ask() for _ in range(optimiser.population_size)]
        candidates = torch.from_numpy(np.stack(asked)).reshape(-1, *shape)
        values = _measured(fitness, candidates, generation)
        optimiser.tell([(point, -value) for point, value in zip(asked, values, strict=True)])
        leader = int(np.argmax(values))
        if values[leader] > top:
            top, best = values[leader], candidates[leader]
        bests.append(top)
        means.append(float(np.mean(values)))
        if optimiser.should_stop():
            break
    return Found(best.to(torch.float32), top, bests, means)


def scalar(shape: tuple[int, int], fitness: Fitness, *, highest: float = HIGHEST, points: int = 31) -> Found:
    """The best single coefficient for all layers and experts, of ``points`` in [0, highest] (arXiv 2212.04089)."""
    grid = torch.linspace(0, highest, points, dtype=torch.float64)
    values = _measured(fitness, grid[:, None, None].expand(points, *shape), 0)
    at = int(np.argmax(values))
    best = np.maximum.accumulate(values).tolist()
    return Found(torch.full(shape, float(grid[at])), values[at], best, values)


def _measured(fitness: Fitness, candidates: Tensor, generation: int) -> list[float]:
    values = fitness(candidates)
    if values.shape != (len(candidates),):
        raise ConfigError(f"search: a fitness of shape {tuple(values.shape)} for {len(candidates)} candidates")
    if not bool((fine := torch.isfinite(values)).all()):
        at = int((~fine).nonzero()[0])
        raise HublessError(
            f"search: the fitness of candidate {at} in generation {generation} is {float(values[at])};"
            " look for models or validation data that are not finite"
        )
    found: list[float] = values.to(torch.float64).tolist()
    return found


def _library() -> Any:
    try:
        import cmaes
    except ImportError:
        raise ConfigError(
            "search: the library cmaes is not installed; pip install 'hubless[search]', or take another method"
        ) from None
    return cmaes
