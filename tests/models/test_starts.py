import pytest
from torch import nn

from hubless.learn import Model
from hubless.models.starts import gaussian
from hubless.models.zoo import cnn, mlp


@pytest.mark.parametrize(("build", "shape"), [(mlp(300), (1, 20, 20)), (cnn(), (1, 28, 28))])
def test_gaussian_of_variance_two_by_inputs(build, shape):
    module = gaussian(build)(shape, 10)
    seen = 0
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            spread = (2 / layer.weight[0].numel()) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.2)
            assert not layer.bias.detach().any()
            seen += 1
    assert seen > 1


def test_it_keeps_the_name_and_follows_the_seed():
    build = gaussian(mlp(4))
    assert build.__qualname__ == mlp(4).__qualname__
    model = Model(lambda: build((3,), 2))
    assert (model.start(1) == model.start(1)).all()
    assert (model.start(1) != model.start(2)).any()
