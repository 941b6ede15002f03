import math
from functools import cache

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.merges import Median
from hubless.learn.tuning.beside import Common
from hubless.learn.tuning.prompts import PromptGenerator

RECIPE = catalogue.find("pfedpg").load()
METHODS = ("pfedpg", "fedvpt", "fedvpt-global", "local-prompts", "head-only")


def run(**options):
    return RECIPE.build(options, "tiny")


def records(**options):
    """What a run tells; runs that several tests ask for are made once."""
    return _records(tuple(sorted(options.items())))


@cache
def _records(options):
    return list(run(**dict(options)).records())


def last(found):
    return next(record for record in reversed(found) if record.kind == "round")


@pytest.mark.parametrize("method", METHODS)
def test_a_tiny_run_ends_with_accuracy_on_own_tasks(method):
    metrics = last(records(method=method)).metrics
    assert 0 <= metrics["accuracy_own_worst"] <= metrics["accuracy_own"] <= 1
    assert math.isfinite(metrics["loss"])


def test_a_run_is_the_same_twice():
    assert [r.line() for r in run(method="pfedpg").records()] == [r.line() for r in records(method="pfedpg")]


@pytest.mark.parametrize("method", METHODS[:3])
def test_star_and_rotating_are_the_same(method):
    star, rotating = last(records(method=method)), last(records(method=method, aggregator="rotating"))
    for name in ("accuracy_own", "accuracy_tuned", "accuracy_own_worst", "loss"):
        assert star.metrics[name] == pytest.approx(rotating.metrics[name], abs=1e-6)
    assert star.metrics["bytes"] < rotating.metrics["bytes"]


def test_what_is_trained_and_what_stays():
    shared = {"pfedpg": {"prompt"}, "fedvpt": {"prompt"}, "fedvpt-global": {"prompt", "head.weight", "head.bias"}}
    for method in METHODS:
        (model, _), *_ = run(method=method).models
        names = {name for name, end in zip(model.names, torch.tensor(model.sizes).cumsum(0), strict=True)
                 if end <= model.shared_size}  # fmt: skip
        assert names == shared.get(method, set(model.names))
        assert set(model.names) == ({"head.weight", "head.bias"} | ({"prompt"} if method != "head-only" else set()))


def test_only_prompts_travel():
    prompt = 2 * 8 * 4
    assert last(records(method="pfedpg")).metrics["bytes"] < 3 * 8 * (prompt + 60)
    assert last(records(method="head-only")).metrics["bytes"] == 0


def test_the_merge_averages_prompts():
    assert run(method="fedvpt", merge="median").merge == Common(Median())
    assert isinstance(run().merge, PromptGenerator)


def test_the_control_is_another_run():
    plain, turned = (last(found).metrics["loss"] for found in (records(method="pfedpg"), records(turned=True)))
    assert plain != turned


def test_newcomers_find_a_finished_generator():
    experiment = run(newcomers=1, arrival=2, rounds=4)
    found = list(experiment.records())
    assert [r.metrics["trained"] for r in found if r.kind == "round"] == [4, 4, 5, 5]
    assert experiment.merge.until == 2


SLOTS = [
    dict(attack="sign-flip:20%"), dict(attack="alie:40%"), dict(codec="float16"), dict(participants=3),
    dict(domains=False), dict(privacy="local:1:0.5"),
]  # fmt: skip


@pytest.mark.parametrize("how", SLOTS, ids=str)
def test_it_goes_with_other_slots(how):
    assert math.isfinite(last(records(**how)).metrics["loss"])


def test_the_report_shows_how_alike_prompts_are():
    own, figure = [record.data for record in records(method="pfedpg") if record.kind == "figure"]
    assert (own["type"], figure["type"]) == ("bars", "heatmap")
    assert own["labels"][:2] == ["0 upright", "1 turned"]
    assert set(own["groups"]) == {"as sent", "as tuned"}
    assert len(figure["values"]) == len(figure["x"]) == 5
    assert figure["x"][0] == "2 inverted"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(model="mlp:8"), "takes no prompt"),
        (dict(trainable="prompt+head+bias"), "trainable: .* belongs to the backbone"),
        (dict(personal="none+prompt"), "no trained parameter|personal"),
        (dict(prompts=0), "prompts = 0"),
        (dict(method="fedprompt"), "method = 'fedprompt'"),
        (dict(merge="median"), "the generator joins nothing"),
        (dict(method="fedvpt", merge="server"), "joined by a rule"),
        (dict(newcomers=5, arrival=1), "newcomers = 5, arrival = 1"),
        (dict(newcomers=1), "give both"),
        (dict(newcomers=1, arrival=3), "an arrival before round 3"),
        (dict(pretrain="digits/7-12"), "pretrain"),
        (dict(codec="secure-sum"), "secure sums"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        run(**options)
