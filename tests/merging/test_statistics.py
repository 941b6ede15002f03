"""What is known of a model: exact where it can be, and unharmed models."""

import pytest
import torch
from torch import nn

from hubless.errors import ConfigError
from hubless.merging import Fisher, RegMean, fishers, grams, merge


def network(seed=0):
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.no_grad():
        for place, value in enumerate(module.parameters()):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(10 * seed + place)))
    return module


def samples(count, seed=0):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_fisher_of_the_last_layer_is_what_theory_says():
    module, x = network(), samples(6)
    found = fishers(module, x.split(4))
    module.eval()
    chances = module(x).softmax(-1).detach()
    hidden = module[:2](x).detach()
    expected = torch.einsum("bc,bi->ci", chances * (1 - chances), hidden.square()) / 6  # E (1[y = c] - p_c)^2 h_i^2
    torch.testing.assert_close(found["3.weight"], expected)
    torch.testing.assert_close(found["3.bias"], (chances * (1 - chances)).mean(0))
    assert set(found) == {name for name, _ in module.named_parameters()}


def test_fisher_of_a_language_model_is_right_in_the_mean_over_draws():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 1.0]))

        def forward(self, x):
            return type("Output", (), {"logits": self.logits.expand(len(x), 2, 3)})

    found = fishers(Tokens(), [torch.zeros(500, 2)], seed=1)["logits"]
    chances = torch.tensor([0.3, -0.2, 1.0]).softmax(0)
    torch.testing.assert_close(found, 2 * chances * (1 - chances), atol=0.1, rtol=0)  # two tokens, drawn apart
    again = fishers(Tokens(), [torch.zeros(500, 2)], seed=1)["logits"]
    assert torch.equal(found, again)


def test_grams_are_those_of_each_layers_inputs():
    module, x = network(), samples(7)
    module.train()
    found = grams(module, x.split(3))
    assert module.training
    hidden = module[:2](x).detach()
    torch.testing.assert_close(found["0.weight"], x.T @ x / 7)
    torch.testing.assert_close(found["3.weight"], hidden.T @ hidden / 7)
    assert set(found) == {"0.weight", "3.weight"}
    assert not module[0]._forward_pre_hooks
    alone = nn.Linear(4, 2)
    assert set(grams(alone, [x[:, None]])) == {"weight"}


def test_models_that_know_different_inputs_keep_what_they_know():
    """Two linear models, each right on its own half of the inputs: the mean is wrong on both, RegMean on neither."""
    truth = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    halves = [torch.tensor([1.0, 1, 0, 0]), torch.tensor([0.0, 0, 1, 1])]
    models, known, fisher = [], [], []
    for place, half in enumerate(halves):
        module = nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            module.weight.copy_(truth * half)
        x = samples(20, place) * half
        models.append({"weight": module.weight.detach()})
        known.append(grams(module, [x]))
        fisher.append(fishers(module, [x]))
    for rule, statistics in ((RegMean(), known), (Fisher(1e-9), fisher)):
        found = merge(rule, models, statistics=statistics)["weight"]
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


def test_what_cannot_be_known_is_said():
    with pytest.raises(ConfigError, match="there are no samples"):
        fishers(network(), [])
    with pytest.raises(ConfigError, match="no linear layer"):
        grams(nn.Tanh(), [samples(2)])
    with pytest.raises(ConfigError, match=r"outputs of shape \(3, 2, 2\)"):
        fishers(nn.Conv2d(1, 3, 1), [torch.ones(1, 1, 2, 2)])
