"""MoDeST as a recipe: records, bad options, and its claims' arithmetic."""

import math

import pytest

from hubless.claims import Result
from hubless.errors import ConfigError
from hubless.recipes.learning.modest import _models_to, modest
from hubless.run.record import Record


def records(**given):
    return list(modest.build({"threads": 1, **given}, "tiny").records())


def test_the_tiny_preset_gives_the_same_finite_records_twice():
    once, again = records(), records()
    assert [r.line() for r in once] == [r.line() for r in again]
    rounds = [r for r in once if r.kind == "round"]
    assert len(rounds) == 4
    assert all(math.isfinite(value) for r in rounds for value in r.metrics.values())
    assert all(r.metrics["sampled"] == 3 for r in rounds)
    for r in rounds:  # 3 models up and 3 down, less those that stay where they are
        assert 4 * r.round <= r.metrics["messages"] - r.metrics["control_messages"] <= 6 * r.round
    assert sum(value is not None for value in rounds[-1].peers["accuracy"]) == 1, "the aggregator speaks for the round"


def test_two_aggregators_give_the_same_model_for_more_bytes():
    one, two = records(), records(aggregators=2)
    assert one[-1].metrics["loss"] == pytest.approx(two[-1].metrics["loss"], abs=1e-5)
    assert two[-1].metrics["bytes"] > 1.5 * one[-1].metrics["bytes"]


def test_it_goes_on_when_most_peers_are_gone():
    last = records(faults="crash:60%@2", rounds=6)[-1]
    assert math.isfinite(last.metrics["accuracy"])
    assert last.metrics["clock"] > 300


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(participants=9), "participants = 9"),
        (dict(participants=0), "participants"),
        (dict(aggregators=4), "aggregators = 4"),
        (dict(quorum=4), "quorum = 4"),
        (dict(success=0.0), "success = 0"),
        (dict(success=1.5), "success"),
        (dict(inactivity=0), "inactivity"),
        (dict(timeout=-1), "timeout"),
        (dict(pings="perhaps"), "pings"),
    ],
)
def test_bad_options_are_refused_before_any_work(given, said):
    with pytest.raises(ConfigError, match=said):
        modest.build(given, "tiny")


def test_models_to_a_target_leave_out_small_messages():
    rounds = [
        Record("round", t, {"accuracy": 0.2 * t, "messages": 10.0 * t, "control_messages": 4.0 * t}) for t in (1, 2, 3)
    ]
    result = Result("modest", {}, rounds)
    assert _models_to(result, 0.4) == 12
    assert _models_to(result, 0.9) == 18, "never reached: the whole run"
