import pytest
import torch
from torch import nn

from hubless.errors import ConfigError
from hubless.learn import Model
from hubless.learn.kernels.loop import Loop
from hubless.models.resnet import ResidualBlock
from hubless.parts import make


def test_depth_and_size_are_those_of_the_paper():
    """Table 6 counts 0.27 million parameters for 20 layers; its shortcuts have none, ours four thousand."""
    network = make("model", "resnet:20")((3, 32, 32), 10)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    shortcuts = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(shortcuts) == 20
    assert len(shortcuts) == 2
    own = sum(p.numel() for p in network.parameters())
    assert own - sum(m.weight.numel() for m in shortcuts) == pytest.approx(270_000, rel=0.01)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert make("model", "resnet:8:4")((1, 28, 28), 5)(torch.rand(2, 1, 28, 28)).shape == (2, 5)


def test_a_block_adds_to_its_input():
    block = ResidualBlock(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(x), x)
    assert ResidualBlock(4, 6, 2)(x).shape == (2, 6, 3, 3)


@pytest.mark.parametrize("text", ["resnet:9", "resnet:2", "resnet:20:0"])
def test_impossible_networks_are_refused(text):
    with pytest.raises(ConfigError, match="resnet"):
        make("model", text)
    with pytest.raises(ConfigError, match="takes images"):
        make("model", "resnet")((64,), 10)


def test_narrow_strided_projections_are_not_trained_channels_last():
    """Their channels-last gradient in torch 2.13 writes beyond its memory."""
    for width, fits in ((4, False), (8, True)):
        model = Model(lambda width=width: make("model", f"resnet:8:{width}")((1, 8, 8), 3))
        assert Loop(model)._last(torch.rand(2, 1, 8, 8)) == fits
