"""Whether models can be merged tensor by tensor: the same names, and the same shape a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hubless.errors import ConfigError
from hubless.merging.rule import Rule

FIRST = 3  # names that an error gives before it counts the rest
Shapes = Mapping[str, tuple[int, ...]]


def check_alike(models: Mapping[str, Shapes]) -> None:
    """Raise ConfigError for the first model that lacks tensors of the first, has others, or some of another shape.

    models: shapes by name of tensor, by label of model; all are compared with the first
    """
    (first, wanted), *others = models.items()
    for label, found in others:
        complaints = [
            _named("missing", [name for name in wanted if name not in found]),
            _named("unexpected", [name for name in found if name not in wanted]),
            _named("of another shape", [
                f"{name} {list(found[name])}, not {list(shape)}"
                for name, shape in wanted.items() if name in found and found[name] != tuple(shape)
            ]),
        ]  # fmt: skip
        if any(complaints):
            raise ConfigError(
                f"{label} differs from {first}: {'; '.join(filter(None, complaints))}. Models of different shape are "
                "merged by their predictions: hubless show model-merging"
            )


def _named(what: str, names: Sequence[str]) -> str:
    """How many there are and which come first, or nothing."""
    if not names:
        return ""
    more = f" and {len(names) - FIRST} more" if len(names) > FIRST else ""
    return f"{len(names)} {what} ({', '.join(names[:FIRST])}{more})"


def check_statistics(rule: Rule, model: Shapes, models: int, statistics: Mapping[str, Shapes]) -> None:
    """Raise ConfigError when the statistics are not what the rule needs of each tensor of such a model.

    A name may be left out, by all models alike. statistics: shapes by name of tensor, by label of what holds them
    """
    name = type(rule).__name__
    if len(statistics) != (models if rule.statistics else 0):
        what = f"one set ({rule.statistics}) a model" if rule.statistics else "none"
        raise ConfigError(f"statistics: {name} takes {what}, not {len(statistics)}")
    for label, found in statistics.items():
        wanted = {n: rule.statistic(shape) for n, shape in model.items()}
        complaints = [
            _named("unexpected", [n for n in found if wanted.get(n) is None]),
            _named("of another shape", [
                f"{n} {list(shape)}, not {list(wanted[n] or ())}"
                for n, shape in found.items() if wanted.get(n) and wanted[n] != tuple(shape)
            ]),
        ]  # fmt: skip
        if any(complaints):
            raise ConfigError(f"{label} does not fit the models: {'; '.join(filter(None, complaints))}")
        if not found:
            raise ConfigError(f"{label}: holds no tensor")
    names = {label: dict.fromkeys(found, ()) for label, found in statistics.items()}
    if names:
        check_alike(names)
