import pytest

from hubless import catalogue
from hubless.errors import ConfigError


def losses(name="fedprox", **options):
    found = catalogue.find(name).load().build(options, "tiny").records()
    return [r.metrics["loss"] for r in found if r.kind == "round"]


def test_a_tiny_run_is_the_same_twice():
    assert losses(seed=3) == losses(seed=3)


def test_without_the_proximal_term_it_is_fedavg():
    assert losses(mu=0.0, steps=4) == pytest.approx(losses("fedavg", steps=4), abs=1e-6)


def test_the_stronger_the_term_the_less_a_round_changes():
    start = losses(lr=1e-9, rounds=1)[0]
    moved = [abs(losses(mu=mu, steps=20, rounds=1)[0] - start) for mu in (0.0, 1.0, 9.0)]
    assert moved == sorted(moved, reverse=True)


def test_the_role_may_move():
    assert losses(aggregator="rotating") == pytest.approx(losses(), abs=1e-5)


@pytest.mark.parametrize("wrong", [{"mu": -0.1}, {"aggregator": "none"}, {"lr": 0.0}])
def test_bad_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"fedprox.{next(iter(wrong))}"):
        catalogue.find("fedprox").load().build(wrong, "tiny")
