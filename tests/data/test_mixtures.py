import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.data.mixtures import Mixture
from hubless.data.partition import counts
from hubless.errors import ConfigError
from hubless.testing.data import check_split


@settings(deadline=None)
@given(
    alpha=st.floats(0.01, 100),
    labels=st.lists(st.integers(0, 6), min_size=30, max_size=120),
    peers=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_amounts_are_equal_and_no_sample_is_lost_or_repeated(alpha, labels, peers, seed):
    sizes = [len(rows) for rows in check_split(Mixture(alpha), np.array(labels), peers, seed)]
    assert max(sizes) - min(sizes) <= 1


def test_small_values_give_few_classes_and_large_ones_all():
    y = np.arange(4000) % 10
    largest = [counts(Mixture(alpha).split(y, 16, 0), y, 10).max(axis=1).mean() / 250 for alpha in (0.05, 1, 1000)]
    assert largest[0] > 0.5 > largest[1] > 0.2 > largest[2]


def test_more_peers_than_classes_have_samples_for_is_no_trouble():
    y = np.array([0] * 97 + [1] * 3)
    assert [len(rows) for rows in Mixture(0.01).split(y, 10, 0)] == [10] * 10


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.inf, np.nan])
def test_alpha_is_positive(alpha):
    with pytest.raises(ConfigError, match="mixture: alpha"):
        Mixture(alpha)
