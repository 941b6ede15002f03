import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.privacy import PBM, RQM, RenyiAccountant, Rounding
from hubless.learn.privacy.renyi import convolve, divergence

COIN = RenyiAccountant(((0.25, 0.75), (0.75, 0.25)))


@st.composite
def pmfs(draw, size):
    weights = np.array(draw(st.lists(st.floats(0.01, 1), min_size=size, max_size=size)))
    return weights / weights.sum()


@given(pmfs(5), pmfs(5), st.sampled_from([1.5, 2, 3]))
def test_divergence_is_what_the_definition_says(p, q, alpha):
    plain = math.log(float((p**alpha * q ** (1 - alpha)).sum())) / (alpha - 1)
    assert divergence(np.log(p), np.log(q), alpha) == pytest.approx(plain, abs=1e-9)
    assert divergence(np.log(p), np.log(p), alpha) == pytest.approx(0, abs=1e-12)


@given(pmfs(4), pmfs(4), st.floats(1.01, 50), st.floats(1.01, 50))
def test_divergence_rises_with_alpha_up_to_the_largest_ratio(p, q, one, other):
    low, high = (divergence(np.log(p), np.log(q), alpha) for alpha in sorted((one, other)))
    assert low <= high + 1e-9
    assert high <= divergence(np.log(p), np.log(q), math.inf) + 1e-9
    assert divergence(np.log(p), np.log(q), math.inf) == pytest.approx(math.log(float((p / q).max())))


def test_large_powers_do_not_overflow():
    """In the plain domain 40 peers and alpha 32 give numbers that no float holds."""
    mechanism = RQM(16, 1.5, 1.5, 0.42)
    assert 0 < mechanism.accountant.epsilon(32, 40) < mechanism.accountant.epsilon(32, 10)
    assert COIN.epsilon(1e6) == pytest.approx(math.log(3), rel=1e-5)
    assert divergence(np.array([0.0]), np.array([-2000.0]), 500) == 2000 * 499 / 499


@given(pmfs(3), pmfs(4))
def test_sums_are_convolutions(p, q):
    assert np.exp(convolve(np.log(p), np.log(q))) == pytest.approx(np.convolve(p, q))


@given(pmfs(3), pmfs(3), st.integers(2, 4), st.sampled_from([2, 8, math.inf]))
def test_a_sum_tells_less_than_one_message_and_less_the_more_there_are(p, q, peers, alpha):
    accountant = RenyiAccountant((tuple(p.tolist()), tuple(q.tolist())))
    one, some, more = (accountant.epsilon(alpha, count) for count in (1, peers, peers + 1))
    assert more <= some + 1e-9
    assert some <= one + 1e-9


def test_sum_of_coins_by_hand():
    """Two peers: the other at heads or tails, both directions, the worst of all."""
    found = []
    for other in COIN.pmfs:
        p, q = (np.convolve(own, other) for own in COIN.pmfs)
        found += [math.log((a**3 / b**2).sum()) / 2 for a, b in ((p, q), (q, p))]
    assert COIN.epsilon(3, 2) == pytest.approx(max(found))


def test_what_can_be_told_apart_for_sure_is_infinite():
    bare = Rounding(16, 1.5)
    for alpha in (1.5, 2, math.inf):
        for peers in (1, 10):
            assert bare.accountant.epsilon(alpha, peers) == math.inf
            assert bare.accountant.total(alpha, 7850, 60, peers) == math.inf
    assert bare.accountant.total(2, 7850, 0) == 0
    assert RenyiAccountant(((0.5, 0.5, 0.0), (0.5, 0.25, 0.25))).epsilon(2) == math.inf


def test_totals_add_up_over_coordinates_and_rounds():
    for alpha in (2, math.inf):
        assert COIN.total(alpha, 7850, 60) == pytest.approx(7850 * 60 * COIN.epsilon(alpha))
        product = np.outer(*[np.array(COIN.pmfs[0])] * 2).ravel(), np.outer(*[np.array(COIN.pmfs[1])] * 2).ravel()
        assert COIN.total(alpha, 2, 1) == pytest.approx(divergence(np.log(product[0]), np.log(product[1]), alpha))


def test_a_binomial_diverges_as_many_coins():
    mechanism = PBM(16, 1.0, 0.25)
    assert mechanism.accountant.epsilon(8) == pytest.approx(16 * COIN.epsilon(8))


@settings(max_examples=20)
@given(st.floats(0.05, 0.95), st.floats(0.1, 3), st.integers(2, 8), st.floats(1.1, 40), st.data())
def test_no_pair_of_inputs_is_worse_than_the_worst_of_the_breakpoints(q, delta, m, alpha, data):
    mechanism = RQM(m, 1.0, delta, q)
    x, other = (data.draw(st.floats(-1, 1)) for _ in range(2))
    assume(x != other)
    assert mechanism.between(x, other).epsilon(alpha) <= mechanism.accountant.epsilon(alpha) + 1e-9


def test_the_ends_are_not_always_the_worst_inputs():
    mechanism = RQM(16, 1.5, 1.5, 0.42)
    assert mechanism.accountant.epsilon(8) > mechanism.between(-1.5, 1.5).epsilon(8) + 0.02


@pytest.mark.parametrize("alpha", [1, 0.5, -1, math.nan])
def test_bad_alpha(alpha):
    with pytest.raises(ConfigError, match=r"alpha = .*must be above 1"):
        COIN.epsilon(alpha)


def test_bad_input():
    with pytest.raises(ConfigError, match="peers = 0"):
        COIN.epsilon(2, 0)
    with pytest.raises(ConfigError, match=r"must sum to 1, not 0\.9"):
        RenyiAccountant(((0.5, 0.5), (0.5, 0.4)))
    with pytest.raises(ConfigError, match="two inputs"):
        RenyiAccountant(((0.5, 0.5), (1.0,)))
