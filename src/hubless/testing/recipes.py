"""Conformance of recipes: the preset ``tiny`` runs, finite, the same twice, and goes on from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from hubless.errors import ConfigError
from hubless.recipe import Recipe
from hubless.run.record import Record


def check_recipe(recipe: Recipe, **options: object) -> None:
    """Run a recipe's preset ``tiny`` three times (``options`` on top), the third time stopped half-way and resumed."""
    name = recipe.name
    assert "tiny" in recipe.presets, f"{name}: needs a preset 'tiny' that runs in seconds"
    for option in recipe.options.values():
        assert option.help, f"{name}.{option.name}: no help; add a line under Args:"
    given = {"threads": 1, **options}
    _check_refusals(recipe)
    records = list(recipe.build(given, "tiny").records())
    _check_records(name, records)
    again = list(recipe.build(given, "tiny").records())
    assert _lines(records) == _lines(again), (
        f"{name}: two runs differ; draw from the seed, through keys, and nothing else"
    )
    resumed = list(_resumed(recipe, given, records))
    for whole, part in zip(_lines(records), _lines(resumed), strict=True):
        assert whole == part, (
            f"{name}: a resumed run differs; keep all memory in state, books or Hook.state: {part[:200]}"
        )


def _lines(records: list[Record]) -> list[str]:
    return [record.line() for record in records]


def _resumed(recipe: Recipe, given: dict[str, object], whole: list[Record]) -> Iterator[Record]:
    rounds = [record.round for record in whole if record.kind == "round"]
    stop = rounds[(len(rounds) - 1) // 2]
    run = recipe.build(given, "tiny")
    for record in run.records():
        yield record
        if record.kind == "round" and record.round == stop:
            break
    snapshot = run.snapshot()
    tensors = {name: value.clone() for name, value in snapshot.tensors.items()}
    yield from recipe.build(given, "tiny").records(replace(snapshot, tensors=tensors))


def _check_refusals(recipe: Recipe) -> None:
    wrong: list[dict[str, object]] = [{"no_such_option": 1}, {"seed": -1}, {"faults": "nonsense"}]
    if "rounds" in recipe.options:
        wrong.append({"rounds": 0})
    for given in wrong:
        try:
            recipe.build(given, "tiny")
        except ConfigError:
            continue
        raise AssertionError(f"{recipe.name}: {given} is accepted; leave the checks to the option's type")


def _check_records(name: str, records: list[Record]) -> None:
    kinds = [record.kind for record in records]
    assert kinds[0] == "start", f"{name}: the first record is {kinds[0]!r}, not 'start'"
    assert kinds[-1] == "end", f"{name}: the last record is {kinds[-1]!r}, not 'end'"
    assert "round" in kinds, f"{name}: no round"
    for record in records:
        for metric, value in record.metrics.items():
            assert math.isfinite(value), f"{name}, round {record.round}: {metric} is {value}; leave it out instead"
        assert Record.parse(record.line()).line() == record.line(), f"{name}: a record does not survive JSON"
    assert records[-1].metrics, f"{name}: the record 'end' has no metrics"
