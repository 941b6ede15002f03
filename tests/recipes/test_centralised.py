import pytest

from hubless import catalogue
from hubless.errors import ConfigError

RECIPE = catalogue.find("centralised").load()


def test_a_tiny_run_is_the_same_twice_and_is_one_peer():
    first, second = (list(RECIPE.build({"seed": 3}, "tiny").records()) for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    assert first[0].data["peers"] == 1
    assert first[0].data["samples"] == [300]
    assert first[-1].metrics["messages"] == 0


def test_full_batches_descend_steadily():
    losses = [
        r.metrics["train_loss"]
        for r in RECIPE.build(dict(batch=0, steps=1, lr=0.05, rounds=8), "tiny").records()
        if r.kind == "round"
    ]
    assert losses == sorted(losses, reverse=True)


def test_too_few_samples_are_refused():
    with pytest.raises(ConfigError, match="samples"):
        RECIPE.build({"samples": 10**9}, "tiny")
