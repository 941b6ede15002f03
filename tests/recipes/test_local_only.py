import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError

RECIPE = catalogue.find("local-only").load()


def test_a_tiny_run_is_the_same_twice_and_sends_nothing():
    first, second = (list(RECIPE.build({"seed": 3}, "tiny").records()) for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    assert first[-1].metrics["messages"] == first[-1].metrics["bytes"] == 0
    assert 0 <= first[-1].metrics["accuracy"] <= 1


def test_a_peer_does_not_depend_on_the_others():
    rows = []
    for data in ({}, {"faults": "crash:3@1"}):
        experiment = RECIPE.build(data, "tiny")
        list(experiment.records())
        rows.append(experiment.snapshot().tensors["cohort.0/rows"])
    same = [bool(torch.equal(a, b)) for a, b in zip(*rows, strict=True)]
    assert sum(same) == 3


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"epochs": -1}, {"momentum": 1.0}, {"batch": -1}, {"peers": 0}])
def test_bad_values_are_refused_before_any_work(wrong):
    with pytest.raises(ConfigError, match=f"local-only.{next(iter(wrong))}"):
        RECIPE.build(wrong, "tiny")
