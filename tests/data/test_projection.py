import numpy as np
import pytest

from hubless.data.dataset import Dataset
from hubless.data.projection import PCA
from hubless.errors import ConfigError
from hubless.testing.data import check_dataset


def pictures(samples=200, seed=0):
    """Pictures of 3 x 4 that vary in few directions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 5)) * [5, 3, 1, 0.1, 0.05] @ rng.normal(size=(5, 12)) + 2
    return Dataset.of(x.reshape(-1, 1, 3, 4), np.arange(samples) % 3)


def test_axes_are_the_right_singular_vectors():
    data = pictures()
    x = data.x.reshape(len(data.x), -1).astype(float)
    axes = np.linalg.svd(x - x.mean(0))[2][:4]
    pca = PCA.of(data, 4)
    assert np.allclose(np.abs((pca.axes * axes).sum(1)), 1, atol=1e-6)
    assert np.allclose(pca.through(data).test_x, (data.test_x.reshape(-1, 12) - x.mean(0)) @ pca.axes.T, atol=1e-4)


def test_all_components_give_the_data_back_and_few_of_them_the_nearest():
    data = pictures()
    for components, most in ((12, 1e-4), (3, 1.0)):
        pca = PCA.of(data, components, scale=0.5)
        through = pca.through(data)
        check_dataset(through)
        assert through.shape == (components,)
        assert np.array_equal(through.y, data.y)
        assert np.abs(pca.back(through.x) - data.x).max() < most
    assert np.abs(through.x.mean(0)).max() < 1e-4
    assert np.allclose(PCA.of(data, 3).through(data).x, 2 * through.x, atol=1e-4)
    assert (np.diff(through.x.std(0)) < 0).all(), "those that vary most come first"


def test_only_training_samples_are_looked_at():
    data = pictures()
    other = Dataset.of(data.x, data.y, test=(data.test_x + 100, data.test_y))
    assert np.array_equal(PCA.of(data, 3).axes, PCA.of(other, 3).axes)


@pytest.mark.parametrize("components", [0, 13])
def test_components_that_there_are_not_are_refused(components):
    with pytest.raises(ConfigError, match=f"components = {components}: must be from 1 to 12 for arrays"):
        PCA.of(pictures(), components)


def test_tokens_have_none():
    tokens = Dataset("t", *[np.zeros((9, 4), np.int64)] * 4, (), "language")
    with pytest.raises(ConfigError, match="t holds tokens"):
        PCA.of(tokens, 2)
