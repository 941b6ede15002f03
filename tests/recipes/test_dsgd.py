import pytest

from hubless import catalogue
from hubless.errors import ConfigError


def records(name="dsgd", **options):
    return list(catalogue.find(name).load().build(options, "tiny").records())


def test_a_tiny_run_is_the_same_twice():
    assert [r.line() for r in records(seed=3)] == [r.line() for r in records(seed=3)]


def test_on_the_full_graph_everyone_agrees():
    full, ring = records(topology="full")[-1], records()[-1]
    assert full.metrics["consensus"] == pytest.approx(0, abs=1e-9)
    assert ring.metrics["consensus"] > 1e-5


def test_one_full_batch_step_on_the_full_graph_is_gradient_descent_when_shares_are_equal():
    whole = dict(batch=0, steps=1)
    shares = dict(partition="iid", peers=6, topology="full")
    ours, pooled = records(**whole, **shares), records("centralised", **whole)
    for one, other in zip(ours[1:], pooled[1:], strict=True):
        assert one.metrics["loss"] == pytest.approx(other.metrics["loss"], abs=1e-5)


def test_momentum_lasts_from_round_to_round():
    heavy, plain = records(momentum=0.9), records()
    assert heavy[-1].metrics["loss"] != plain[-1].metrics["loss"]


@pytest.mark.parametrize("wrong", [{"weights": "none"}, {"topology": "random-regular:9"}, {"steps": 0}, {"lr": 0.0}])
def test_bad_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        catalogue.find("dsgd").load().build(wrong, "tiny")
