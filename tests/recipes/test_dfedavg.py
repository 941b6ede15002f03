import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.net.mixing import mix
from hubless.net.topologies import Ring


def run(name="dfedavg", **options):
    experiment = catalogue.find(name).load().build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"]


def test_a_tiny_run_is_the_same_twice():
    assert [r.line() for r in run(seed=3)[0]] == [r.line() for r in run(seed=3)[0]]


def test_without_momentum_and_with_one_exchange_it_is_local_sgd_with_gossip():
    assert torch.allclose(run()[1], run("dsgd")[1], atol=1e-6)


@pytest.mark.parametrize("q", [1, 3])
def test_gossip_steps_are_powers_of_the_mixing_matrix(q):
    trained = run("local-only", rounds=1, steps=3)[1]
    mixed = run(rounds=1, steps=3, gossip_steps=q)[1]
    w = torch.from_numpy(mix(Ring().edges(6)).matrix()).float()
    assert torch.allclose(mixed, torch.linalg.matrix_power(w, q) @ trained, atol=1e-5)


def test_each_exchange_costs_its_messages():
    once, thrice = run()[0][-1].metrics, run(gossip_steps=3)[0][-1].metrics
    assert thrice["bytes"] == 3 * once["bytes"]
    assert thrice["messages"] == 3 * once["messages"]


def test_momentum_begins_at_rest_in_every_round():
    assert torch.allclose(run(momentum=0.9, rounds=1)[1], run("dsgd", momentum=0.9, rounds=1)[1], atol=1e-6)
    assert not torch.allclose(run(momentum=0.9)[1], run("dsgd", momentum=0.9)[1], atol=1e-4)


@pytest.mark.parametrize("wrong", [{"gossip_steps": 0}, {"momentum": 1.0}, {"epochs": -1}])
def test_bad_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"dfedavg.{next(iter(wrong))}"):
        catalogue.find("dfedavg").load().build(wrong, "tiny")
