import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.privacy import PBM
from hubless.parts import make
from hubless.testing import check_codec

DRAWS = 200_000


@given(st.integers(1, 40), st.floats(0.01, 0.49), st.floats(-1.5, 1.5))
def test_probabilities_are_binomial_and_decoding_is_unbiased(m, theta, x):
    mechanism = PBM(m, 1.5, theta)
    pmf = mechanism.pmf(x)
    assert pmf == pytest.approx(binom.pmf(np.arange(m + 1), m, 0.5 + theta * x / 1.5), abs=1e-12)
    values = mechanism.decode(torch.arange(m + 1).double()).numpy()
    assert abs(pmf @ values - x) <= 1e-9
    variance = 1.5**2 / (m * theta**2) * (0.25 - (theta * x / 1.5) ** 2)
    assert mechanism.variance(x) == pytest.approx(variance, rel=1e-6)


@pytest.mark.parametrize("x", [-1.5, 0.0, 0.7])
def test_samples_agree_with_the_probabilities(x):
    mechanism = PBM(16, 1.5, 0.25)
    z = mechanism.encode(torch.full((DRAWS,), x), keys.fold(3, "draws"))
    frequency = torch.bincount(z.long(), minlength=17).numpy() / DRAWS
    assert np.abs(frequency - mechanism.pmf(x)).max() <= 0.005


def test_the_cards_values():
    mechanism = PBM(16, 1.5, 0.25)
    assert mechanism.variance(0.0) == pytest.approx(0.5625)
    assert mechanism.variance(1.5) == pytest.approx(0.421875)
    assert mechanism.accountant.epsilon(2) == pytest.approx(13.56, abs=5e-3)
    assert mechanism.accountant.epsilon(8, 10) == pytest.approx(11.13, abs=5e-3)


def test_trials_are_one_less_than_outcomes():
    assert (PBM(16, 1.0, 0.25).outcomes, PBM(16, 1.0, 0.25).bits) == (17, 5)
    assert (PBM(15, 1.0, 0.25).outcomes, PBM(15, 1.0, 0.25).bits) == (16, 4)


@given(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([1.5, 2, 8, math.inf]))
def test_the_ends_are_the_worst_inputs(x, other, alpha):
    mechanism = PBM(6, 1.0, 0.3)
    assert mechanism.between(x, other).epsilon(alpha) <= mechanism.accountant.epsilon(alpha) + 1e-9


def test_a_sum_decodes_to_the_mean():
    mechanism = PBM(16, 0.02, 0.25)
    z = mechanism.encode(torch.linspace(-0.02, 0.02, 1000), 7).double()
    assert float(mechanism.decode(z.sum(), 1000)) == pytest.approx(float(mechanism.decode(z).mean()))


def test_codecs_keep_their_contract():
    for kind in ("model", "delta"):
        check_codec("pbm:0.3", kind=kind)
        check_codec("pbm:0.3:m=15", kind=kind)


@pytest.mark.parametrize(
    ("values", "words"),
    [((0, 1.0, 0.25), "pbm.m = 0"), ((16, -1.0, 0.25), "clip.c = -1"), ((16, 1.0, 0.0), "pbm.theta = 0"),
     ((16, 1.0, 0.5), "pbm.theta = 0.5")],
)  # fmt: skip
def test_bad_mechanisms(values, words):
    with pytest.raises(ConfigError, match=words):
        PBM(*values)


def test_bad_names_and_bytes():
    with pytest.raises(ConfigError, match="theta"):
        make("codec", "pbm:0.02:16:half")
    with pytest.raises(CodecError, match=r"outside 0\.\.16"):
        PBM(16, 1.0, 0.25).inverse({"w/private": torch.tensor([17])}, 1, None)
