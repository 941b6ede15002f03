import pytest
import torch

from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.masks import masks
from hubless.models.tuning import adapted, low_rank, prompted
from hubless.models.vit import mini_vit
from hubless.models.zoo import byte_transformer, mlp

VIT = mini_vit(patch=2, width=8, layers=2, heads=2)
SHAPE = (1, 4, 4)


def network(architecture, trainable="all"):
    return Model(lambda: architecture(SHAPE, 3), trainable=masks(trainable, "none")[0])


@pytest.mark.parametrize(
    ("tuned", "mask", "size"),
    [
        (adapted(VIT, 3), "adapter", 2 * (8 * 3 + 3 + 3 * 8 + 8)),
        (low_rank(VIT, 2), "lora", 2 * (2 * 8 + 24 * 2)),
        (prompted(VIT, 5), "prompt", 5 * 8),
    ],
)
def test_what_is_added_is_found_by_its_name_and_is_all_that_is_added(tuned, mask, size):
    assert network(tuned, mask).size == size
    assert network(tuned).size == network(VIT).size + size
    assert set(network(VIT).names) < set(network(tuned).names)


@pytest.mark.parametrize("tuned", [adapted(VIT, 3), low_rank(VIT, 2)])
def test_a_network_starts_as_the_one_without_and_then_differs(tuned):
    plain, model = network(VIT), network(tuned)
    x = torch.rand(4, *SHAPE)
    w = model.start(5)
    before = plain.forward(plain.start(5), x)
    torch.testing.assert_close(model.forward(w, x), before)
    leaf = w.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.forward(leaf, x).square().sum(), leaf)
    moved = model.unflatten(slope)
    reached = [name for name in moved if ("adapter.up" in name or "lora_b" in name) and moved[name].any()]
    assert reached, "a gradient must reach the part that starts at zero"
    assert not torch.allclose(model.forward(w - slope, x), before, atol=1e-3)


def test_a_prompt_changes_the_output():
    plain, model = network(VIT), network(prompted(VIT, 2))
    x = torch.rand(4, *SHAPE)
    assert not torch.allclose(model.forward(model.start(5), x), plain.forward(plain.start(5), x), atol=1e-4)


def test_an_adapter_is_a_bottleneck_behind_the_layer():
    layer = adapted(mlp(4), 2, ["1"])((3,), 2)[1]
    with torch.no_grad():
        layer.adapter["up"].weight.fill_(1.0)
    x = torch.rand(5, 3)
    y = x @ layer.weight.T + layer.bias
    down = torch.relu(y @ layer.adapter["down"].weight.T)
    torch.testing.assert_close(layer(x), y + down.sum(1, keepdim=True))


def test_a_low_rank_update_is_a_matrix_of_that_rank():
    layer = low_rank(mlp(6), 2, ["1"], scale=0.5)((5,), 2)[1]
    with torch.no_grad():
        layer.lora_b.copy_(torch.rand(6, 2))
    added = layer(torch.eye(5)) - torch.nn.functional.linear(torch.eye(5), layer.weight, layer.bias)
    torch.testing.assert_close(added.T, 0.5 * layer.lora_b @ layer.lora_a, atol=1e-6, rtol=1e-5)
    assert torch.linalg.matrix_rank(added) == 2


def test_other_networks_of_blocks_can_be_tuned():
    module = low_rank(adapted(byte_transformer(8, 1, 2), 2), 2)((6,), 11)
    assert module(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 11)
    names = [name for name, _ in module.named_parameters()]
    assert "blocks.0.narrow.adapter.up.weight" in names
    assert "blocks.0.mixer.lora_a" in names


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: adapted(VIT, 0), "adapter = 0"),
        (lambda: low_rank(VIT, 0), "lora = 0"),
        (lambda: prompted(VIT, 0), "prompt = 0"),
        (lambda: adapted(mlp(4), 2)((3,), 2), "Sequential has no plain linear layer .*narrow .adapter."),
        (lambda: prompted(mlp(4), 2)((3,), 2), "Sequential takes no prompt"),
        (lambda: low_rank(low_rank(VIT, 2), 2)(SHAPE, 3), "has no plain linear layer"),
    ],
)
def test_what_cannot_be_tuned_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
