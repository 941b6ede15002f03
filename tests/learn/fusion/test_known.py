import torch

from hubless.learn import Model
from hubless.learn.context import Batch
from hubless.learn.fusion.known import gram_matrices, information


def test_information_and_gram_matrices():
    model = Model(lambda: torch.nn.Linear(3, 2), name="linear")
    w, x = model.start(1), torch.randn(150, 3, generator=torch.Generator().manual_seed(1))
    data = Batch(x, torch.arange(150) % 2)
    gram = gram_matrices(model, w, {}, data)
    assert list(gram) == ["weight"]
    torch.testing.assert_close(gram["weight"], x.T @ x / 150)
    error = torch.softmax(model.forward(w, x), -1) - torch.nn.functional.one_hot(data.y, 2)
    known = information(model, w, {}, data)
    torch.testing.assert_close(known["bias"], error.square().mean(0))
    torch.testing.assert_close(known["weight"], (error[:, :, None] * x[:, None]).square().mean(0))


def test_only_linear_layers_that_are_trained_have_gram_matrices():
    build = lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))  # noqa: E731
    model = Model(build, frozen=("0.",))
    data = Batch(torch.ones(5, 3), torch.arange(5) % 2)
    assert list(gram_matrices(model, model.start(0), {}, data)) == ["2.weight"]
    assert set(information(model, model.start(0), {}, data)) == set(model.names)
