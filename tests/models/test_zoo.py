"""Every architecture of the zoo, at a size that any of them takes."""

import pytest
import torch

from hubless.errors import ConfigError
from hubless.parts import make, parts
from hubless.testing import check_model

SMALL = {"mlp": "mlp:8", "mini-vit": "mini-vit:4:8:1:2", "byte-transformer": "byte-transformer:8:1:2",
         "moe": "moe:8:1:2:4:6:2"}  # fmt: skip
TEXT = {"byte-transformer", "moe"}


LARGE, ELSEWHERE = {"2nn", "mcmahan-cnn"}, {"hf", "smollm2"}  # the latter need a folder: test_huggingface.py


@pytest.mark.parametrize("name", sorted(set(parts("model")) - LARGE - ELSEWHERE))
def test_architectures(name):
    shape = (6,) if name in TEXT else (1, 16, 16)
    check_model(SMALL.get(name, name), shape=shape)


@pytest.mark.parametrize(
    ("name", "parameters"), [("2nn", 199210), ("mcmahan-cnn", 1663370), ("lenet", 61706), ("mlp:64", 50890)]
)
def test_sizes_are_those_of_the_papers(name, parameters):
    network = make("model", name)((1, 28, 28), 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", ["cnn", "lenet", "mcmahan-cnn"])
def test_images_that_are_too_small_are_refused(name):
    with pytest.raises(ConfigError, match="needs larger images than 3 x 3"):
        make("model", name)((1, 3, 3), 10)
    with pytest.raises(ConfigError, match="takes images"):
        make("model", name)((40,), 10)


def test_texts_are_read_from_left_to_right():
    network = make("model", "byte-transformer:8:2:2")((6,), 10)
    x = torch.tensor([[1, 2, 3, 4, 5, 6]])
    other = x.clone()
    other[0, 4] = 9
    one, two = network(x), network(other)
    torch.testing.assert_close(one[:, :4], two[:, :4])
    assert not torch.allclose(one[:, 4:], two[:, 4:])


@pytest.mark.parametrize("spec", ["mlp:0", "byte-transformer:7:1:2"])
def test_widths_are_checked(spec):
    with pytest.raises(ConfigError, match="model: "):
        make("model", spec)
