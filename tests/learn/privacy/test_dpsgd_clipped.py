"""Sums of clipped gradients: every kernel gives what a plain loop over samples gives; no sample exceeds the bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hubless.errors import ConfigError
from hubless.learn import Batch, Model
from hubless.learn.kernels import Kernel
from hubless.learn.kernels.choice import KINDS
from hubless.learn.kernels.slope import Session

C, B, CLASSES = 3, 7, 4


class Branching(nn.Module):
    """Cannot be mapped: its forward looks at a value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, CLASSES)

    def forward(self, x):
        if not bool(x.isfinite().all()):
            raise ValueError("broken input")
        return self.linear(x)


def perceptron():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 5, bias=False), nn.Tanh(), nn.Linear(5, CLASSES)
    )


def convolution():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))


def embedding():
    return nn.Sequential(nn.Embedding(CLASSES, 6), nn.Linear(6, CLASSES))


def dropout():
    return nn.Sequential(nn.Linear(6, 30), nn.Dropout(0.5), nn.Linear(30, CLASSES))


IMAGES, ROWS, TOKENS = (1, 6, 6), (6,), (3,)
CASES = [
    ("dense", perceptron, IMAGES), ("graph", perceptron, IMAGES), ("loop", perceptron, IMAGES),
    ("stacked", convolution, IMAGES), ("loop", convolution, IMAGES), ("loop", Branching, ROWS),
    ("graph", embedding, TOKENS),
]  # fmt: skip


def setting(kind, build, shape, task="classification", **rest):
    model = Model(build, task="language" if shape is TOKENS else task, **rest)
    source = torch.Generator().manual_seed(0)
    W = torch.stack([model.start(i) for i in range(C)])
    if shape is TOKENS:
        x, y = (torch.randint(0, CLASSES, (C, B, *shape), generator=source) for _ in range(2))
    else:
        x = torch.randn(C, B, *shape, generator=source)
        y = torch.randint(0, CLASSES, (C, B), generator=source)
        y = y if task == "classification" else torch.randn(C, B, CLASSES, generator=source)
    return KINDS[kind](model), W, Batch(x, y)


def one_by_one(model: Model, w, x, y, bound):
    """The plain loop: one sample's gradient by autograd, clipped, added."""
    total, norms = torch.zeros_like(w), []
    for one, target in zip(x, y, strict=True):
        free = w.clone().requires_grad_()
        loss = model.loss(model.forward(free, one[None], train=True), target[None])[0]
        (g,) = torch.autograd.grad(loss, free)
        norms.append(float(g.norm()))
        total += g * min(1.0, bound / norms[-1])
    return total, norms


@pytest.mark.parametrize(("kind", "build", "shape"), CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_plain_loop(kind, build, shape, weighted):
    kernel, W, batch = setting(kind, build, shape)
    count = torch.tensor([[1.0] * B, [1.0] * 3 + [0.0] * 4, [0.0] * B])
    if weighted:
        batch = batch._replace(weight=count)
    norms = one_by_one(kernel.model, W[0], batch.x[0], batch.y[0], 1.0)[1]
    bound = sorted(norms)[B // 2]  # some are clipped and some are not
    session = Session(kernel)
    parts = batch if weighted else batch[:2]
    found = torch.vmap(lambda w, *parts: session.clipped(w, {}, Batch(*parts), bound)[0])(W, *parts)
    for i in range(C):
        here = int(count[i].sum()) if weighted else B
        expected, _ = one_by_one(kernel.model, W[i], batch.x[i, :here], batch.y[i, :here], bound)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)
        alone = session.clipped(W[i], {}, Batch(*(part[i] for part in parts)), bound)[0]
        torch.testing.assert_close(alone, found[i], atol=1e-6, rtol=1e-5)
    losses = kernel.grad(W, {}, batch)[2]
    torch.testing.assert_close(session.losses[0], losses)
    assert [len(x) for x in session.losses] == [C, 1, 1, 1]
    assert not found.requires_grad


@pytest.mark.parametrize(("kind", "build", "shape"), CASES[:4])
def test_it_is_torch_func(kind, build, shape):
    kernel, W, batch = setting(kind, build, shape)
    model = kernel.model

    def loss(w, x, y):
        return model.loss(model.forward(w, x[None], train=True), y[None])[0]

    G = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(W[1], batch.x[1], batch.y[1])
    expected = (G * (0.7 / G.norm(dim=1, keepdim=True)).clamp(max=1)).sum(0)
    found = Session(kernel).clipped(W[1], {}, Batch(batch.x[1], batch.y[1]), 0.7)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "loop"])
@pytest.mark.parametrize("own", [False, True])
def test_regression_and_losses_of_ones_own(kind, own):
    loss = (lambda out, y: (out - y).abs().sum(1)) if own else None
    kernel, W, batch = setting(kind, perceptron, IMAGES, task="regression", loss=loss)
    found = Session(kernel).clipped(W[0], {}, Batch(batch.x[0], batch.y[0]), 0.5)[0]
    torch.testing.assert_close(
        found, one_by_one(kernel.model, W[0], batch.x[0], batch.y[0], 0.5)[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["dense", "graph"])
def test_a_bound_that_nothing_reaches_gives_the_gradient(kind):
    kernel, W, batch = setting(kind, perceptron, IMAGES)
    found = Session(kernel).clipped(W[0], {}, Batch(batch.x[0], batch.y[0]), 1e6)[0]
    torch.testing.assert_close(found / B, kernel.grad(W, {}, batch)[0][0], atol=1e-5, rtol=1e-5)


KERNELS = [setting("dense", perceptron, IMAGES)[0], setting("loop", convolution, IMAGES)[0]]


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "loop"])
@given(scale=st.sampled_from([1e-6, 0.1, 10.0, 1e4]), bound=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_no_sample_exceeds_the_bound(kernel: Kernel, scale, bound, seed):
    source = torch.Generator().manual_seed(seed)
    w = scale * torch.randn(kernel.model.size, generator=source)
    x, y = scale * torch.randn(1, *IMAGES, generator=source), torch.randint(0, CLASSES, (1,), generator=source)
    found = Session(kernel).clipped(w, {}, Batch(x, y), bound)[0]
    assert float(found.norm()) <= bound * (1 + 1e-5)


def test_replacing_a_sample_moves_the_sum_by_two_bounds_at_most():
    kernel, W, batch = setting("dense", perceptron, IMAGES)
    x, y, bound = batch.x[0], batch.y[0], 0.01
    before = Session(kernel).clipped(W[0], {}, Batch(x, y), bound)[0]
    changed, labels = x.clone(), y.clone()
    changed[2], labels[2] = 50.0, (y[2] + 1) % CLASSES
    after = Session(kernel).clipped(W[0], {}, Batch(changed, labels), bound)[0]
    assert 0 < float((after - before).norm()) <= 2 * bound * (1 + 1e-5)


@pytest.mark.parametrize("kind", ["graph", "loop"])
def test_dropout_draws_a_mask_a_sample_and_moves_on(kind):
    kernel, W, _ = setting(kind, dropout, ROWS)
    (key,) = kernel.model.buffers
    x, y = torch.ones(1, 6).expand(B, 6), torch.zeros(B, dtype=torch.int64)
    sums = []
    s = {key: torch.tensor(5)}
    for _ in range(2):
        g, after = Session(kernel).clipped(W[0], s, Batch(x, y), 100.0)
        assert int(after[key]) == int(s[key]) + 1
        one = Session(kernel).clipped(W[0], s, Batch(x[:1], y[:1]), 100.0)[0]
        assert float((g - B * one).norm()) > 0.01, "all samples had the same mask"
        sums.append(g)
        again = Session(kernel).clipped(W[0], s, Batch(x, y), 100.0)[0]
        assert torch.equal(g, again)
        s = after
    assert float((sums[0] - sums[1]).norm()) > 0.01, "both steps had the same masks"


def test_models_in_which_samples_mix_are_refused():
    kernel = KINDS["loop"](Model(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), name="mixer"))
    w = kernel.model.start(0)
    with pytest.raises(ConfigError, match="model: mixer has BatchNorm"):
        Session(kernel).clipped(
            w, kernel.model.state(), Batch(torch.ones(2, 6), torch.zeros(2, dtype=torch.int64)), 1.0
        )
