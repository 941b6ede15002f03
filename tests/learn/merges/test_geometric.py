import pytest
import torch
from boxes import D, close, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hubless.errors import ConfigError
from hubless.learn.merges import GeometricMedian
from hubless.parts import make


def cost(z, rows, weights):
    return float((weights * (rows.double() - z).norm(dim=1)).sum() / weights.sum())


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 10), st.integers(0, 9999))
def test_nothing_has_a_smaller_sum_of_distances(count, seed):
    rows, weights = normal(seed, count, D), normal(seed + 1, count).abs().double() + 0.1
    ours = cost(joined(GeometricMedian(), rows, weights.float()).double(), rows, weights)
    found = minimize(lambda z: cost(torch.from_numpy(z), rows, weights), rows.double().mean(0).numpy(), method="BFGS")
    assert ours <= found.fun * 1.002  # the steps get short where the median is a message


def test_the_steps_are_the_sources():
    """Weiszfeld's algorithm by hand, from the mean of the smallest half around a message: here all but the outlier."""
    rows = torch.cat([normal(0, 4, D), normal(1, 3, D) + 50])
    z = min((rows[:4].mean(0),), key=len)
    for _ in range(3):
        pull = 1 / (rows - z).norm(dim=1).clamp_min(0.5)
        z = (pull[:, None] * rows).sum(0) / pull.sum()
    close(joined(GeometricMedian(3, 0.5), rows), z)


def test_a_weight_of_more_than_half_decides():
    rows = normal(0, 3, D)
    close(joined(GeometricMedian(200), rows, torch.tensor([0.2, 0.6, 0.2])), rows[1], within=1e-4)


def test_equal_halves_give_something_between():
    rows = torch.stack([torch.zeros(D), torch.ones(D)])
    close(joined(GeometricMedian(), rows), torch.full((D,), 0.5))


@pytest.mark.parametrize("text", ["geometric-median:0", "geometric-median:5:0"])
def test_numbers_without_sense(text):
    with pytest.raises(ConfigError, match=r"merge\.(steps = 0: must be 1 or more|smoothing = 0: must be above 0)"):
        make("merge", text)
