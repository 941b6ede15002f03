import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.net import spectrum
from hubless.net.edges import Edges
from hubless.net.mixing import mix, spectral_gap
from hubless.net.topologies import (
    Exponential,
    Full,
    Line,
    OnePeerExponential,
    RandomMatching,
    RandomRate,
    RandomRegular,
    Ring,
    Sequence,
    Star,
)
from hubless.parts import parts
from hubless.testing.net import check_mixing

RULES = [name for name in parts("weights") if name != "matrix"]  # that one is of one graph only


@st.composite
def graphs(draw, both=True):
    n = draw(st.integers(1, 12))
    peers = st.integers(0, n - 1)
    pairs = draw(st.lists(st.tuples(peers, peers), max_size=30))
    return Edges.of(n, [a for a, _ in pairs], [b for _, b in pairs], both=both)


@pytest.mark.parametrize("name", RULES)
def test_contract(name):
    check_mixing(name)


@pytest.mark.parametrize("name", RULES)
@given(graphs(both=False), st.data())
def test_rows_sum_to_one(name, edges, data):
    sizes = data.draw(st.lists(st.integers(0, 500), min_size=edges.n, max_size=edges.n))
    mixing = mix(edges, name, sizes)
    assert mixing.row_stochastic
    assert np.allclose(mixing.matrix().sum(axis=1), 1)
    assert mixing.matrix().min() >= 0
    codes = mixing.dst * edges.n + mixing.src
    assert np.all(np.diff(codes) > 0)
    assert np.array_equal(mixing.dst, np.repeat(np.arange(edges.n), np.diff(mixing.starts)))


@given(graphs())
def test_metropolis_is_doubly_stochastic_and_symmetric(edges):
    mixing = mix(edges, "metropolis")
    assert mixing.doubly_stochastic
    assert np.allclose(mixing.matrix(), mixing.matrix().T)


def test_uniform_is_doubly_stochastic_only_for_equal_degrees():
    assert mix(Exponential().edges(10), "uniform").doubly_stochastic
    assert mix(Exponential().edges(10), "metropolis").doubly_stochastic
    assert not mix(Star().edges(10), "uniform").doubly_stochastic
    assert np.allclose(mix(Star().edges(4), "uniform").matrix()[0], 0.25)


def test_metropolis_by_hand():
    expected = [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]
    assert np.allclose(mix(Line().edges(3)).matrix(), expected)


def test_data_size_by_hand():
    """A peer without data counts as the mean, 20, of the others."""
    expected = [[1 / 3, 2 / 3, 0], [10 / 60, 20 / 60, 30 / 60], [0, 20 / 50, 30 / 50]]
    assert np.allclose(mix(Line().edges(3), "data-size", [10, 0, 30]).matrix(), expected)


@pytest.mark.parametrize("sizes", [None, [1, 2], [1, -2, 3], [1, float("nan"), 3]])
def test_data_size_refuses(sizes):
    with pytest.raises(ConfigError, match=r"weights: .*size"):
        mix(Line().edges(3), "data-size", sizes)


def test_unknown_rule():
    with pytest.raises(ConfigError, match="did you mean 'metropolis'"):
        mix(Line().edges(3), "metropols")


def test_gap_of_a_ring_in_closed_form():
    for n in (5, 16, 64):
        expected = 1 - (1 + 2 * np.cos(2 * np.pi / n)) / 3
        assert spectral_gap(Ring(), n) == pytest.approx(expected)


def test_gap_of_the_extremes():
    assert spectral_gap(Full(), 9) == pytest.approx(1)
    assert spectral_gap(Ring(), 1) == 1
    assert mix(Edges.of(4, [0, 2], [1, 3])).spectral_gap() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("topology", [Ring(), RandomRegular(4), Star(), Exponential()])
def test_iteration_equals_dense(topology, monkeypatch):
    dense = spectral_gap(topology, 150, "uniform")
    monkeypatch.setattr(spectrum, "DENSE", 10)
    assert spectral_gap(topology, 150, "uniform") == pytest.approx(dense, rel=1e-4)


@pytest.mark.parametrize("topology", [OnePeerExponential(), RandomMatching()])
def test_iteration_equals_dense_over_time(topology, monkeypatch):
    dense = spectral_gap(topology, 50)
    monkeypatch.setattr(spectrum, "DENSE", 10)
    assert spectral_gap(topology, 50) == pytest.approx(dense, rel=1e-4)


def test_gap_over_time():
    assert spectral_gap(OnePeerExponential(), 16) == pytest.approx(1)  # one period averages exactly
    product = mix(Line().edges(6)).matrix() @ mix(Ring().edges(6)).matrix()
    expected = 1 - np.linalg.norm(product - 1 / 6, 2) ** 0.5
    assert spectral_gap(Sequence((Ring(), Line())), 6) == pytest.approx(expected)
    assert spectral_gap(RandomRate(0.2), 16, "uniform") < spectral_gap(RandomRate(2.0), 16, "uniform")


@given(st.integers(2, 12), st.integers(0, 3))
def test_disagreement_shrinks_by_the_gap(n, seed):
    mixing = mix(Ring().edges(n))
    x = np.random.default_rng(seed).standard_normal(n)
    y = mixing.matrix() @ x
    assert y.mean() == pytest.approx(x.mean(), abs=1e-9)
    assert np.linalg.norm(y - y.mean()) <= (1 - mixing.spectral_gap()) * np.linalg.norm(x - x.mean()) + 1e-9
