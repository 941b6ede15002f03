from dataclasses import replace

import pytest
import torch

from hubless import catalogue
from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn.attacks import hostile
from hubless.learn.context import Batch, Context
from hubless.learn.gradients import PGD
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session

RECIPE = catalogue.find("fal").load()


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"]


@pytest.mark.parametrize("method", ["fal", "fal-fgsm", "fedavg", "local-only"])
def test_a_tiny_run_is_the_same_twice(method):
    first, second = (run(method=method, seed=3)[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    last = first[-2].metrics
    assert 0 <= last["robust_accuracy"] <= last["noise_accuracy"] <= 1
    assert "robust_accuracy" not in first[1].metrics


def test_without_a_ball_it_is_fedavg():
    assert torch.allclose(run(eps=0)[1], run(method="fedavg")[1], atol=1e-6)
    assert not torch.allclose(run()[1], run(method="fedavg")[1], atol=1e-3)


def test_without_a_ball_attack_and_noise_are_clean():
    records, _ = run(eps=0, probe=20)
    assert records[-2].metrics["robust_accuracy"] == records[-2].metrics["noise_accuracy"]


def test_the_attack_is_on_the_present_parameters_of_the_peer():
    """One peer, two steps: the second attack sees the parameters after the first step."""
    options = dict(peers=1, samples=40, partition="iid", rounds=1, steps=2, batch=40, attack_steps=1, attack_size=0.2)
    experiment = RECIPE.build(options, "tiny")
    model, shards = experiment.models[0][0], experiment.shards
    attack = PGD(0.1, 0.2, 1, start=False)
    local = replace(experiment.learning.local, gradient=replace(experiment.learning.local.gradient, attack=attack))
    experiment = replace(experiment.learning, local=local).under(experiment.setting)
    list(experiment.records())
    trained = experiment.snapshot().tensors["cohort.0/rows"][0]

    start = RECIPE.build({**options, "lr": 1e-12}, "tiny")
    list(start.records())
    w = start.snapshot().tensors["cohort.0/rows"][0]
    x, y = shards.own(0)
    for _ in range(2):
        inputs = x.clone().requires_grad_()
        slope = torch.autograd.grad(model.loss(model.forward(w, inputs), y).mean(), inputs)[0]
        worse = (x + 0.1 * slope.sign()).clamp(0, 1)
        leaf = w.clone().requires_grad_()
        w = w - 0.1 * torch.autograd.grad(model.loss(model.forward(leaf, worse), y).mean(), leaf)[0]
    assert torch.allclose(trained, w, atol=1e-5)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_adversarial_inputs_stay_in_the_ball_and_hurt(norm):
    experiment = RECIPE.build({}, "tiny")
    model, shards = experiment.models[0][0], experiment.shards
    batch = Batch(*shards.own(0))
    w = model.start(1)
    ctx = Context(t=1, N=1, model=model, slope=Session(Loop(model)), key=5)
    x = PGD(0.1, 0.03, 10, norm)(w, {}, batch, ctx).x
    shift = (x - batch.x).flatten(1)
    assert (shift.abs().max() if norm == "inf" else shift.norm(dim=1).max()) <= 0.1 + 1e-6
    assert x.min() >= 0
    assert x.max() <= 1
    loss = [float(model.loss(model.forward(w, at), batch.y).mean()) for at in (batch.x, x)]
    assert loss[1] > loss[0]


def test_the_theorems_network():
    experiment = RECIPE.build({"width": 64, "rounds": 12, "steps": 5, "lr": 0.3}, "tiny")
    model = experiment.models[0][0]
    assert model.size == 64 * 64
    outer = model.frozen["outer.weight"]
    assert torch.equal(outer.abs(), torch.full((10, 64), 64**-0.5))
    losses = [r.metrics["robust_loss"] for r in experiment.records() if r.kind == "round"]
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": -0.1}, "eps = -0.1"),
        ({"attack_size": 0}, "attack.size = 0.0: must be positive when steps = 2"),
        ({"norm": "1"}, "norm = '1'"),
        ({"method": "pgd"}, "method = 'pgd'"),
        ({"width": -1}, "width = -1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_inputs_outside_the_clipping_range_are_refused():
    x = torch.linspace(-1, 1, 640).reshape(40, 16)
    data = Dataset.of(x, torch.arange(40) % 2)
    with pytest.raises(ConfigError, match=r"attack.clip = \(0.0, 1.0\): but the inputs lie in"):
        RECIPE.function(data=data)
    assert RECIPE.function(data=data, clip=False).workload.peers == 10


def test_everyone_is_honest():
    assert hostile(RECIPE.build({}, "tiny").learning.attack, 4, 0) == []


def test_weights_start_gaussian_or_as_torch_does():
    options = dict(lr=1e-12, rounds=1)
    wide, small = (run(start=start, **options)[1][0] for start in ("gaussian", "torch"))
    assert wide[: 64 * 16].std() == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert small[: 64 * 16].std() == pytest.approx((1 / 3 / 64) ** 0.5, rel=0.1)
    assert wide[64 * 16 : 64 * 16 + 16].abs().max() < 1e-6
