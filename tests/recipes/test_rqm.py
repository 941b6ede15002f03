import math

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.codecs import BitPack
from hubless.learn.privacy import PBM, RQM

RECIPE = catalogue.find("rqm").load()
SIZE = 65 * 10  # parameters of softmax regression on digits


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    records = list(experiment.records())
    return records, experiment.snapshot().tensors["cohort.0/rows"][0]


def rounds(records):
    return [record for record in records if record.kind == "round"]


@pytest.mark.parametrize("mode", ["rqm", "pbm", "clipped", "rounding"])
def test_a_tiny_run_is_the_same_twice_and_learns(mode):
    first, second = (run(mode=mode, seed=3, rounds=10)[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    assert first[-1].metrics["accuracy"] > 0.5


def test_clipping_bounds_every_coordinate_of_a_step():
    _, clipped = run(mode="clipped", rounds=1)
    _, free = run(mode="clipped", rounds=1, c=10.0)
    assert clipped.abs().max() == pytest.approx(0.02, rel=1e-3)
    assert free.abs().max() > 0.04
    assert not torch.allclose(clipped, free)


def test_the_mean_of_many_peers_is_near_that_of_clipped_updates():
    options = dict(peers=100, participants=0, samples=400, rounds=1)
    _, clipped = run(mode="clipped", **options)
    for mode, mechanism in (("rqm", RQM(16, 0.02, 0.02, 0.42)), ("pbm", PBM(16, 0.02, 0.25))):
        error = run(mode=mode, **options)[1] - clipped
        noise = (mechanism.variance(0.0) / 100) ** 0.5
        assert float(error.std()) == pytest.approx(noise, rel=0.15)
        assert abs(float(error.mean())) < 4 * noise / SIZE**0.5


def test_totals_are_told_and_add_up():
    records, _ = run(rounds=4)
    accountant = RQM(16, 0.02, 0.02, 0.42).accountant
    for t, record in enumerate(rounds(records), 1):
        assert record.metrics["renyi_coordinate"] == pytest.approx(accountant.epsilon(2))
        assert record.metrics["renyi_total"] == pytest.approx(t * SIZE * accountant.epsilon(2))
        assert record.metrics["epsilon_total"] == pytest.approx(t * SIZE * accountant.epsilon(math.inf))
    compared, told = (record.data for record in records if record.kind == "figure")
    assert len(compared["rows"]) == 9
    assert all(ours < baseline for _, _, ours, baseline in compared["rows"])
    assert told["rows"][0][1:] == pytest.approx([value * accountant.epsilon(2) for value in (1, SIZE, 4 * SIZE)])
    assert told["rows"][-1][0] == "infinity (pure)"


@pytest.mark.parametrize("mode", ["clipped", "rounding"])
def test_without_privacy_a_run_says_so(mode):
    records, _ = run(mode=mode)
    assert any(record.data.get("text") == "epsilon is infinite: nothing is private" for record in records)
    assert not any("renyi_total" in record.metrics or "epsilon_total" in record.metrics for record in records)


def test_a_round_in_which_nobody_trains_tells_nothing():
    records, _ = run(rounds=3, faults="crash:peer=0@2-2")
    totals = [record.metrics["renyi_total"] for record in rounds(records)]
    assert totals[0] == totals[1] < totals[2]


def test_a_resumed_run_goes_on_with_its_totals():
    whole = RECIPE.build(dict(rounds=4), "tiny")
    lines = [record.line() for record in whole.records()]
    stopped = RECIPE.build(dict(rounds=4), "tiny")
    for record in stopped.records():
        if record.kind == "round" and record.round == 2:
            snapshot = stopped.snapshot()
            break
    again = RECIPE.build(dict(rounds=4), "tiny")
    rest = [record.line() for record in again.records(snapshot)]
    assert lines[-len(rest) :] == rest


def test_uploads_cost_four_bits_a_coordinate_and_a_header():
    for mode, least in (("clipped", 4 * SIZE), ("rqm", SIZE / 2), ("pbm", SIZE * 5 / 8)):
        records, _ = run(mode=mode, participants=0, rounds=1)
        sent = rounds(records)[0].peers["bytes"][1:]
        assert len(set(sent)) == 1
        assert least <= sent[0] < least + 64


def test_rotating_the_aggregator_changes_nothing():
    star, rotating = (run(aggregator=kind)[0] for kind in ("star", "rotating"))
    for a, b in zip(rounds(star), rounds(rotating), strict=True):
        assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], abs=1e-6)


@pytest.mark.parametrize("mode", ["rqm", "pbm", "rounding", "clipped"])
def test_a_secure_sum_gives_the_same_model(mode):
    _, open_ = run(mode=mode)
    records, summed = run(mode=mode, secure=True)
    assert torch.allclose(open_, summed, atol=1e-6)
    if mode == "rqm":
        accountant = RQM(16, 0.02, 0.02, 0.42).accountant
        assert rounds(records)[0].metrics["renyi_coordinate"] == pytest.approx(accountant.epsilon(2, 3))


def test_secure_sums_are_of_integers_before_they_are_packed():
    stages = RECIPE.build(dict(secure=True), "tiny").codec.stages
    assert [type(stage).__name__ for stage in stages] == ["Clip", "RQM", "SecureSum"]
    assert isinstance(RECIPE.build({}, "tiny").codec.stages[-1], BitPack)


def test_what_an_attacker_says_is_bounded_too():
    _, w = run(attack="sign-flip:50%:1000", rounds=1)
    assert w.abs().max() <= 0.04 + 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(delta=0), "delta = 0"),
        (dict(q=1.0), "q = 1"),
        (dict(q=0.0), "rqm.q = 0"),
        (dict(levels=1), "rqm.m = 1"),
        (dict(theta=0.5), "pbm.theta = 0.5"),
        (dict(c=0), "c = 0"),
        (dict(alpha=1.0), "rqm.alpha = 1: must be above 1"),
        (dict(mode="laplace"), "mode = 'laplace'"),
        (dict(model="cnn-bn"), "start = 'zero': a network with hidden units"),
        (dict(model="cnn-bn", start="torch"), "BatchNorm's statistics"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        RECIPE.build(options, "tiny")
