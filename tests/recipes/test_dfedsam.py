import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn import SAM, SGD, Model
from hubless.learn.context import Batch, Context
from hubless.learn.sharpness import climb, largest_curvature

RECIPE = catalogue.find("dfedsam").load()


def run(name="dfedsam", **options):
    experiment = catalogue.find(name).load().build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"]


def test_a_tiny_run_is_the_same_twice_and_measures_sharpness_once():
    first, second = run(seed=3)[0], run(seed=3)[0]
    assert [r.line() for r in first] == [r.line() for r in second]
    assert [r.round for r in first if r.metrics.get("sharpness", 0) > 0] == [3]


def test_without_a_radius_it_is_dfedavg():
    assert torch.allclose(run(rho=0.0, decay=1.0)[1], run("dfedavg")[1], atol=1e-6)
    assert torch.allclose(run(rho=1e-6, decay=1.0)[1], run("dfedavg")[1], atol=1e-5)
    assert not torch.allclose(run(rho=0.5, decay=1.0)[1], run("dfedavg")[1], atol=1e-4)


def test_gossip_steps_keep_the_mean_and_shrink_the_disagreement():
    (one, once), (four, often) = run(rounds=1), run(rounds=1, gossip_steps=4)
    assert torch.allclose(once.mean(0), often.mean(0), atol=1e-6)
    assert four[-1].metrics["consensus"] < 0.5 * one[-1].metrics["consensus"]
    assert four[-1].metrics["bytes"] == 4 * one[-1].metrics["bytes"]


class Bowl:
    """Gradient of ``w @ scale @ w / 2``, whatever the batch."""

    scale = torch.tensor([1.0, 4.0])

    def grad(self, w, s, batch):
        return self.scale * w, s


def test_the_gradient_is_taken_on_the_rim_of_the_ball_and_the_step_from_its_centre():
    w = torch.tensor([3.0, 1.0])
    ctx = Context(t=1, N=1, model=None, slope=Bowl())
    moved, _ = SGD(lr=0.1, steps=1, gradient=SAM(0.5)).step(w, {}, Batch(w, w), ctx)
    slope = Bowl.scale * w
    assert torch.allclose(moved, w - 0.1 * Bowl.scale * (w + 0.5 * slope / slope.norm()))


def test_a_zero_gradient_is_no_trouble():
    ctx = Context(t=1, N=1, model=None, slope=Bowl())
    g, _ = SAM(0.5)(torch.zeros(2), {}, Batch(torch.zeros(1), torch.zeros(1)), ctx)
    assert torch.equal(g, torch.zeros(2))


def test_the_largest_curvature_is_that_of_the_whole_hessian():
    model = Model(lambda: torch.nn.Linear(3, 2))
    make = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=make), torch.randint(2, (20,), generator=make)
    w = torch.randn(model.size, generator=make)
    hessian = torch.autograd.functional.hessian(lambda v: model.loss(model.forward(v, x, {}), y).mean(), w)
    found = largest_curvature(model, w, {}, x, y, torch.randn(model.size, generator=make), 100)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rho": -0.1}, "dfedsam.rho"),
        ({"gossip_steps": 0}, "dfedsam.gossip_steps"),
        ({"weights": "data-size"}, "doubly stochastic"),
        ({"weights": "uniform", "topology": "line"}, "doubly stochastic"),
        ({"topology": "random-regular:7"}, "dfedsam.topology"),
    ],
)
def test_bad_options_are_refused_before_any_work(wrong, said):
    with pytest.raises(ConfigError, match=said):
        RECIPE.build(wrong, "tiny")


def test_the_climb_of_a_quadratic_is_known():
    model = Model(lambda: torch.nn.Linear(1, 1, bias=False), task="regression")
    x, y = torch.ones(4, 1), torch.zeros(4)
    # L(w) = w^2, so a step of 0.5 away from w = 2 gives 2.5^2 - 2^2
    assert climb(model, torch.tensor([2.0]), {}, x, y, 0.5) == pytest.approx(2.25)
