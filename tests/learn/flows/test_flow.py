import numpy as np
import pytest
import torch

import hubless.testing as testing
from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import SGD, Adam, Alone, Learning, Workload, keys
from hubless.learn.context import Batch, Context
from hubless.learn.flows.flow import (
    AVERAGE,
    TIME,
    WEIGHT,
    Averaged,
    Fading,
    FlowMatching,
    Network,
    Noised,
    average,
    between,
    drawn,
    flow_data,
    follow,
    placed,
    placed_at,
)
from hubless.learn.flows.gaussians import Mixture
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.models.zoo import softmax
from hubless.run.setting import Setting


def vectors(samples=400, mean=1.0, deviation=0.5, d=2):
    x = mean + deviation * keys.normal(keys.fold(5, "x"), (samples, d)).numpy()
    return Dataset.of(x, x, task="regression", name="one Gaussian")


def lone(mean=(1.5, -1.0), deviation=0.6):
    return Mixture(torch.ones(1), torch.tensor([mean]), torch.tensor([deviation]))


def test_time_runs_from_data_to_noise():
    x0, eps = torch.tensor([[1.0, 2.0]] * 3), torch.tensor([[-3.0, 4.0]] * 3)
    x, u = between(x0, eps, torch.tensor([0.0, 0.5, 1.0]))
    assert x.tolist() == [[1, 2], [-1, 3], [-3, 4]]
    assert torch.equal(u, eps - x0)
    assert torch.allclose(x[:1] + u[:1], x[2:])


def test_a_row_says_where_and_when():
    rows = placed(torch.zeros(3, 2), torch.tensor([0.0, 0.25, 1.0]))
    assert rows.shape == (3, 2 + TIME)
    assert rows[:, 2].tolist() == [0, 0.25, 1]
    assert len({tuple(row.round(decimals=4).tolist()) for row in rows}) == 3
    assert torch.equal(placed_at(torch.ones(4, 2), 0.25)[:1, 2:], rows[1:2, 2:])


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan")])
def test_a_time_outside_the_unit_interval_is_refused(t):
    with pytest.raises(ConfigError, match=r"t = .*: must be in \[0, 1\]; 0 is data, 1 is noise"):
        placed_at(torch.zeros(1, 2), t)
    network = Network(Model(lambda: softmax()((2 + TIME,), 2), task="regression"), torch.zeros(2 * (3 + TIME)))
    with pytest.raises(ConfigError, match="t = "):
        network(torch.zeros(1, 2), t)


def test_draws_are_of_the_path_and_differ_by_key():
    clean = placed_at(torch.full((4000, 2), 3.0), 0.0)
    rows, u = drawn(clean, 1)
    t = rows[:, 2:3]
    assert torch.allclose(rows[:, :2] - t * u, clean[:, :2], atol=1e-5), "x_t - t u is where the path began"
    assert 0 <= t.min() < 0.01 < 0.99 < t.max() <= 1
    eps = u + 3
    assert abs(float(eps.mean())) < 0.05
    assert abs(float(eps.std()) - 1) < 0.05
    assert not torch.equal(rows, drawn(clean, 2)[0])
    assert torch.equal(rows, drawn(clean, 1)[0])


def test_a_set_of_flows_has_clean_rows_for_training_and_always_the_same_paths_for_test():
    data = vectors()
    flows = flow_data(data)
    testing.check_dataset(flows)
    assert np.array_equal(flows.x[:, :2], flows.y)
    assert not flows.x[:, 2].any()
    assert np.allclose(flows.test_x[:, :2] - flows.test_x[:, 2:3] * flows.test_y, data.test_x, atol=1e-5)
    assert np.array_equal(flows.test_x, flow_data(data).test_x)
    with pytest.raises(ConfigError, match=r"inputs of shape \(1, 4, 4\), a flow needs vectors"):
        flow_data(Dataset.of(np.zeros((9, 1, 4, 4)), np.arange(9) % 2))


def test_gradients_are_those_of_the_squared_error_on_the_path():
    model = Model(lambda: softmax()((2 + TIME,), 2), task="regression")
    ctx = Context(t=1, N=1, model=model, slope=Session(Loop(model)), key=7)
    clean, w = placed_at(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), 0.0), model.start(0)
    g, _ = FlowMatching()(w, {}, Batch(clean, torch.zeros(8, 2)), ctx)
    rows, u = drawn(clean, 7)
    leaf = w.clone().requires_grad_()
    (model.forward(leaf, rows) - u).square().mean().backward()
    assert torch.allclose(g, leaf.grad, atol=1e-6)
    labels = Model(lambda: softmax()((2 + TIME,), 3))
    ctx = Context(t=1, N=1, model=labels, slope=Session(Loop(labels)), key=7)
    y = torch.arange(8) % 3
    leaf = labels.start(0).requires_grad_()
    torch.nn.functional.cross_entropy(labels.forward(leaf, rows), y).backward()
    assert torch.allclose(Noised()(labels.start(0), {}, Batch(clean, y), ctx)[0], leaf.grad, atol=1e-6)


@pytest.mark.parametrize("gradient", [FlowMatching(), Noised()])
def test_mapped_peers_draw_as_they_do_alone(gradient):
    data = flow_data(vectors(60))
    ends = []
    for kernel in ("auto", "loop"):
        work = Workload(data, "iid", 3, "mlp:6")
        run = Learning(work, SGD(steps=3, batch=4, gradient=gradient), Alone(), rounds=2, kernel=kernel).under(
            Setting(seed=1, threads=1)
        )
        list(run.records())
        ends.append(run.snapshot().tensors["cohort.0/rows"].clone())
    assert torch.allclose(*ends, atol=1e-5)
    assert not torch.allclose(ends[0][0], ends[0][1], atol=1e-3)


def test_samples_of_one_gaussian_by_its_exact_field():
    noise = keys.normal(keys.fold(0, "noise"), (4000, 2))
    found = follow(lone().velocity(0), noise, 100)
    assert torch.allclose(found.mean(0), torch.tensor([1.5, -1.0]), atol=0.05)
    assert torch.allclose(found.std(0), torch.tensor([0.6, 0.6]), atol=0.03)
    with pytest.raises(ConfigError, match="sampling_steps = 0"):
        follow(lone().velocity(0), noise, 0)


def test_a_network_learns_the_field_of_one_gaussian():
    """The direction of time and the sign of the velocity are those of what is known."""
    data = flow_data(vectors(2000, mean=1.0, deviation=0.5))
    work = Workload(data, "iid", 1, "mlp:32")
    local = Averaged(Fading(lr=0.01, steps=400, batch=64, gradient=FlowMatching()), 0.99)
    run = Learning(work, local, Alone(), rounds=1).under(Setting(threads=1))
    list(run.records())
    state = {name: run.snapshot().tensors[f"cohort.0/state/{name}"] for name in (AVERAGE, WEIGHT)}
    network = Network(run.models[0][0], average(run.snapshot().tensors["cohort.0/rows"], state)[0])
    found = follow(network, keys.normal(keys.fold(0, "noise"), (1000, 2)), 20)
    assert torch.allclose(found.mean(0), torch.ones(2), atol=0.15)
    assert torch.allclose(found.std(0), torch.full((2,), 0.5), atol=0.15)


@pytest.mark.parametrize("inner", [SGD(steps=2, momentum=0.5), Adam(lr=0.01, steps=2, keep=True), Fading(steps=2)])
def test_averaged_objectives_conform(inner):
    testing.check_local(Averaged(inner, 0.9))


def test_the_average_is_the_exponential_mean_of_all_rows_so_far_and_training_is_as_without():
    class Fixed(SGD):
        def step(self, w, s, batch, ctx):
            return w + 1, s

    local = Averaged(Fixed(steps=1), 0.5)
    model = Model(lambda: torch.nn.Linear(1, 1), task="regression")
    w, s = torch.zeros(2), local.init(model)
    assert torch.equal(average(w + 9, s), w + 9), "a peer that never trained has its own parameters"
    for _ in range(3):
        w, s = local.step(w, s, None, None)
    assert w.tolist() == [3, 3]
    assert torch.allclose(average(w, s), torch.full((2,), (1 / 4 + 2 / 2 + 3) / (1 / 4 + 1 / 2 + 1)))
    assert torch.equal(average(w, {}), w)
    with pytest.raises(ConfigError, match=r"ema = 1: must be in \[0, 1\)"):
        Averaged(SGD(steps=1), 1.0)


def test_the_rate_falls_linearly():
    local = Fading(lr=0.4, steps=1, rounds=4)
    assert [local.rate(t) for t in (1, 2, 3, 4, 5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert Averaged(local).rate(2) == pytest.approx(0.3)
