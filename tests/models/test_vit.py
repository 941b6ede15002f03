import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.context import Batch
from hubless.learn.kernels.graph import Graph
from hubless.learn.kernels.loop import Loop
from hubless.models.vit import mini_vit
from hubless.parts import make
from hubless.testing import check_model

SMALL = mini_vit(patch=2, width=8, layers=1, heads=2)


def test_the_default_has_the_size_that_its_docstring_says():
    network = mini_vit()((1, 28, 28), 10)
    assert sum(p.numel() for p in network.parameters()) == 60_730
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_patches_hold_every_pixel_once_in_reading_order(channels, rows, columns, p):
    network = mini_vit(p, width=4, layers=1, heads=1)((channels, rows * p, columns * p), 2)
    x = torch.arange(2 * channels * rows * p * columns * p).reshape(2, channels, rows * p, columns * p).float()
    cut = network.patches(x)
    for token in range(rows * columns):
        top, left = token // columns * p, token % columns * p
        assert torch.equal(cut[:, token].reshape(2, channels, p, p), x[:, :, top : top + p, left : left + p])


def test_where_a_patch_is_counts():
    network = Model(lambda: SMALL((1, 4, 4), 3))
    w = network.start(1)
    x = torch.rand(1, 1, 4, 4)
    assert not torch.allclose(network.forward(w, x), network.forward(w, x.flip(-1)))


def test_tokens_see_each_other_both_ways():
    """The class token comes first, so it would see nothing if attention were causal."""
    model = Model(lambda: SMALL((1, 4, 4), 3))
    w, x = model.start(1), torch.rand(1, 1, 4, 4)
    other = x.clone()
    other[..., 3, 3] += 1
    assert not torch.allclose(model.forward(w, x), model.forward(w, other))


def test_a_prompt_has_no_position_and_stands_behind_the_class_token():
    network = mini_vit(2, 8, 1, 2, prompt=3)((1, 4, 4), 3)
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.rand(2, 1, 4, 4))
    (h,) = seen
    assert h.shape == (2, 1 + 3 + 4, 8)
    assert torch.equal(h[:, 1:4], network.prompt.expand(2, 3, 8))
    assert torch.equal(h[:, 0], (network.cls + network.place[:1]).expand(2, 8))


@pytest.mark.parametrize("spec", ["mini-vit:2:8:1:2", "mini-vit:2:8:1:2:prompt=2:adapter=3:lora=2"])
def test_it_maps_over_peers(spec):
    check_model(spec, shape=(1, 4, 4))
    model = Model(lambda: make("model", spec)((1, 4, 4), 3))
    W = torch.stack([model.start(i) for i in range(3)])
    batch = Batch(torch.rand(3, 5, 1, 4, 4), torch.arange(15).reshape(3, 5) % 3)
    (a, _, one), (b, _, two) = (kernel(model).grad(W, {}, batch) for kernel in (Loop, Graph))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("spec", "shape", "words"),
    [
        ("mini-vit:width=10:heads=4", (1, 28, 28), "width 10 is no multiple of 4 heads"),
        ("mini-vit", (1, 16, 16), r"patches of 7 x 7 fill, not samples of shape \(1, 16, 16\); .* mini-vit:4"),
        ("mini-vit", (40,), "takes images"),
        ("mini-vit:patch=0", (1, 28, 28), "patch = '0'"),
    ],
)
def test_what_does_not_fit_is_refused(spec, shape, words):
    with pytest.raises(ConfigError, match=words):
        make("model", spec)(shape, 10)
