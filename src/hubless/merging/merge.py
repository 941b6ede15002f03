"""Merging whole models, one name at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from hubless.errors import ConfigError, DataError
from hubless.merging.alike import Shapes, check_alike, check_statistics
from hubless.merging.rule import BLOCK, Rule, seeded

Tensors = Mapping[str, Tensor]


def merge(
    rule: Rule,
    models: Sequence[Tensors],
    *,
    base: Tensors | None = None,
    weights: Sequence[float] | None = None,
    statistics: Sequence[Tensors] | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """One model of several that have the same names and shapes, each tensor in the type of the first model's.

    base:       the model that all were fine-tuned from, for rules that need it
    weights:    one a model; None: 1 each
    statistics: one set a model, for rules that need them; names that they leave out get the mean
    seed:       of rules that drop values at random
    Raises ConfigError for models, statistics or weights that do not fit, DataError for values that are not finite.
    """
    labelled = {f"model {place}": model for place, model in enumerate(models)}
    rule.check(len(models), weights, base is not None)
    check_alike(
        {label: shapes(one) for label, one in (labelled | ({"base": base} if base is not None else {})).items()}
    )
    known = {f"statistics {place}": one for place, one in enumerate(statistics or ())}
    check_statistics(rule, shapes(models[0]), len(models), {label: shapes(one) for label, one in known.items()})
    merged = tensors(rule, labelled, base=base, weights=weights, statistics=known, seed=seed)
    return {name: cast(name, value, models[0][name].dtype) for name, value in merged}


def shapes(model: Tensors) -> Shapes:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in model.items()}


def tensors(
    rule: Rule,
    models: Mapping[str, Tensors],
    *,
    names: Iterable[str] | None = None,
    base: Tensors | None = None,
    weights: Sequence[float] | None = None,
    statistics: Mapping[str, Tensors] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Each name with its merged tensor, of models that were checked; only one tensor a model is asked for at a time.

    Integers are copied: single numbers (counters) from the first model, others must be the same in all.
    models, statistics: by label, for errors
    names: which, in order; None: all

    Raises ConfigError for integers that differ, DataError for values that are not finite.
    """
    for name in next(iter(models.values())) if names is None else names:
        column = {label: model[name] for label, model in models.items()}
        values = list(column.values())
        if not any(value.is_floating_point() for value in values):
            yield name, _same(name, column)
            continue
        known = {label: one[name] for label, one in (statistics or {}).items() if name in one}
        for label, value in known.items():
            check_finite(f"{label}: {name}", value)
        origin = None if base is None or not rule.needs_base else base[name]
        merged = rule(
            values, weights=weights, base=origin, statistics=list(known.values()) or None, draw=seeded(seed, name)
        )
        if not finite(merged):  # whatever is not finite in a model is not in the merge either; so whose is it?
            for label, value in (column if origin is None else column | {"base": origin}).items():
                check_finite(f"{label}: {name}", value)
            check_finite(f"merged, {name}", merged)
        yield name, merged


def _same(name: str, column: Mapping[str, Tensor]) -> Tensor:
    """The integers that all models have, or the first model's single number."""
    (first, value), *others = column.items()
    if value.numel() > 1:
        for label, other in others:
            if not torch.equal(value, other):
                raise ConfigError(f"{name}: holds integers that differ between {first} and {label}; they have no mean")
    return value


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite."""
    return all(math.isfinite(float(piece.sum())) or bool(piece.isfinite().all()) for piece in _pieces(tensor))


def check_finite(what: str, tensor: Tensor) -> None:
    """Raise DataError when values are not finite."""
    if not finite(tensor):
        bad = sum(int((~piece.isfinite()).sum()) for piece in _pieces(tensor))
        raise DataError(f"{what} has {bad:,} values that are not finite, of {tensor.numel():,}")


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The values, some at a time, in a type whose sum seldom overflows."""
    flat = tensor.reshape(-1)
    for first in range(0, flat.numel(), BLOCK):
        piece = flat[first : first + BLOCK]
        yield piece.float() if piece.itemsize < 4 else piece


def cast(name: str, tensor: Tensor, kind: torch.dtype) -> Tensor:
    """The merged tensor in that type. Raises DataError for values that it cannot hold."""
    written = tensor.to(kind)
    if kind.is_floating_point and kind != tensor.dtype:
        check_finite(f"merged in {str(kind).removeprefix('torch.')}, {name}", written)
    return written
