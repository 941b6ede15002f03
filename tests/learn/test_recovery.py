"""What can be read off a gradient: labels, inputs of a first layer, inputs that are searched for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hubless.data.sets import digits
from hubless.errors import ConfigError
from hubless.learn import Model, keys
from hubless.learn.recovery import Analytic, Matching, Seen, labels, matched, psnr, variation

DATA = digits()
X, Y = torch.from_numpy(DATA.x[:400]), torch.from_numpy(DATA.y[:400])
SHAPE = tuple(X.shape[1:])


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def unbiased():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 10, bias=False))


def convolutional():
    first, second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(384, 10))


MLP, UNBIASED, CONV = (Model(build, name=build.__name__) for build in (perceptron, unbiased, convolutional))


def seen(model, x, y, start=1, factor=1.0):
    """The gradient of a batch, up to a factor, at fresh parameters."""
    w = model.start(start).requires_grad_()
    (g,) = torch.autograd.grad(model.loss(model.forward(w, x), y).mean(), w)
    return Seen(model, w.detach(), factor * g, torch.ones_like(g), {}, len(x), SHAPE, (0.0, 1.0))


def quality(found, x):
    return psnr(matched(found, x)[1], 1.0)


@pytest.mark.parametrize("model", [MLP, UNBIASED, CONV], ids=lambda model: model.name)
@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, 399), start=st.integers(0, 5), factor=st.floats(1e-3, 10))
def test_one_label_is_always_right(model, at, start, factor):
    one = seen(model, X[at : at + 1], Y[at : at + 1], start, factor)
    assert labels(model, one.g, 1).tolist() == [int(Y[at])]


def test_labels_of_several_samples_are_mostly_right_even_when_some_repeat():
    right = total = 0
    for start in range(30):
        y = Y[8 * start : 8 * start + 8]
        guess = labels(MLP, seen(MLP, X[8 * start : 8 * start + 8], y, start).g, 8)
        assert len(guess) == 8
        right += sum(min(int((guess == c).sum()), int((y == c).sum())) for c in range(10))
        total += 8
    assert right / total > 0.9


@settings(max_examples=15, deadline=None)
@given(at=st.integers(0, 399), start=st.integers(0, 5), factor=st.floats(1e-3, 10))
def test_a_first_layer_gives_one_sample_away_exactly(at, start, factor):
    one = seen(MLP, X[at : at + 1], Y[at : at + 1], start, factor)
    assert float(quality(Analytic()(one, Y[at : at + 1], 0), X[at : at + 1])[0]) > 80


def test_units_that_one_sample_activated_give_several_away():
    pairs = [float(quality(Analytic()(seen(MLP, X[i : i + 2], Y[i : i + 2]), Y[:2], 0), X[i : i + 2]).min())
             for i in range(0, 40, 2)]  # fmt: skip
    assert sum(pair > 40 for pair in pairs) >= 16  # 17 of 20; others share too many units
    four = quality(Analytic()(seen(MLP, X[:4], Y[:4]), Y[:4], 0), X[:4])
    assert int((four > 40).sum()) >= 2


def test_without_a_gradient_something_of_the_right_shape_comes_back():
    nothing = seen(MLP, X[:2], Y[:2], factor=0.0)
    assert Analytic()(nothing, Y[:2], 0).shape == (2, *SHAPE)


@pytest.mark.parametrize(("distance", "model"), [("cosine", CONV), ("l2", CONV), ("cosine", UNBIASED)])
def test_a_search_finds_the_sample_behind_a_gradient(distance, model):
    one = seen(model, X[:1], Y[:1], factor=0.5)
    found = Matching(distance, steps=150, restarts=1, rate=0.5)(one, Y[:1], keys.fold(0, "search"))
    assert float(quality(found, X[:1])[0]) > 30
    again = Matching(distance, steps=150, restarts=1, rate=0.5)(one, Y[:1], keys.fold(0, "search"))
    assert torch.equal(found, again)
    assert found.min() >= 0
    assert found.max() <= 1


def test_a_search_gets_by_with_the_entries_that_were_sent():
    whole = seen(CONV, X[:1], Y[:1])
    known = torch.ones_like(whole.g)
    known[: 6 * 9 + 6] = 0  # all but the first layer
    partly = Seen(CONV, whole.w, whole.g * known, known, {}, 1, SHAPE, (0.0, 1.0))
    found = Matching(steps=150, restarts=1)(partly, Y[:1], keys.fold(0, "search"))
    assert float(quality(found, X[:1])[0]) > 20


def test_each_sample_counts_once():
    truth = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.4, 0.4]])
    places, errors = matched(torch.tensor([[0.1, 0.1], [0.0, 0.0], [0.9, 0.9]]), truth)
    assert places == [2, 0, 1]
    assert errors.tolist() == pytest.approx([0.09, 0, 0.01], abs=1e-6)


def test_decibels():
    assert psnr(torch.tensor([0.01, 1.0, 0.0], dtype=torch.float64), 1.0).tolist() == pytest.approx([20, 0, 100])
    assert psnr(torch.tensor([0.04], dtype=torch.float64), 2.0).tolist() == pytest.approx([20])


def test_variation_is_of_neighbouring_pixels():
    image = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert float(variation(image)) == 1
    assert float(variation(torch.ones(1, 1, 3, 3))) == 0
    assert float(variation(torch.rand(2, 9))) == 0


def test_what_cannot_be_recovered_is_said():
    for model in (CONV, UNBIASED):
        with pytest.raises(
            ConfigError, match=r"first layer of .* is not fully connected with bias; use method=Matching"
        ):
            Analytic().check(model, SHAPE)
    with pytest.raises(ConfigError, match="has no trained linear last layer"):
        labels(Model(lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), name="flat"), torch.zeros(650), 1)
    for bad in (dict(steps=0), dict(restarts=0), dict(tv=-1), dict(size=0), dict(rate=0), dict(distance="l1")):
        with pytest.raises(ConfigError, match="inversion"):
            Matching(**bad)
