import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from hubless.errors import ConfigError
from hubless.learn import SGD, Batch
from hubless.learn.context import Context
from hubless.learn.kernels.loop import Loop
from hubless.learn.kernels.slope import Session
from hubless.learn.model import Model
from hubless.learn.teaching.profiles import PROFILE, Profiled, contexts, divergence, width
from hubless.testing import check_local

P = np.array([[0.9, 0.1, 0.7, 0.3], [0.2, -0.1, 0.0, 1.0], [0.5, 0.0, 0.5, 0.5]])
PROBE = Batch(torch.eye(4), torch.tensor([0, 1, 2, 0]))


def test_contexts_by_hand():
    x = contexts(P, [0], [1], 2, "compatible")[0]
    assert np.allclose(x, [1, *P[0], *P[1], 0.7, 0.2, 0.7, 0.7, 0.0, 0.3])
    assert np.allclose(contexts(P, [0], [1], 2, "pooled")[0], [1, 0.9, 0.2, 0.7, 1.4, 0.3])
    assert np.allclose(contexts(P, [0], [1], 2, "concat")[0], [*P[0], *P[1]])


@pytest.mark.parametrize("kind", ["compatible", "pooled", "concat"])
def test_roles_matter(kind):
    there, back = contexts(P, [0, 1], [1, 0], 2, kind)
    assert not np.allclose(there, back)
    assert width(2, 2, kind) == len(there)


def test_only_what_two_have_in_common_is_more_than_additive():
    """x(0, 1) + x(1, 2) - x(0, 2) - x(1, 1'): a linear model on ``concat`` cannot tell such pairs apart."""
    profiles = np.array([[0.5, 1.0, 0.0], [0.5, 0.0, 1.0], [0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    alike, unlike = ([0, 1], [2, 3]), ([0, 1], [3, 2])
    for kind, same in (("concat", True), ("compatible", False), ("pooled", False)):
        sums = [contexts(profiles, *pairs, 1, kind).sum(0) for pairs in (alike, unlike)]
        assert np.allclose(*sums) == same, kind


@given(st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4), min_size=2, max_size=5))
def test_divergence_is_the_square_of_scipys_distance(rows):
    shares = np.array(rows) + 1.0
    shares /= shares.sum(1, keepdims=True)
    found = divergence(shares)
    assert np.allclose(found, found.T)
    for i in range(len(shares)):
        for j in range(len(shares)):
            assert found[i, j] == pytest.approx(jensenshannon(shares[i], shares[j]) ** 2, abs=1e-7)


def test_divergence_of_shares_that_have_nothing_in_common():
    assert divergence(np.eye(3))[0, 1] == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("profiles", "teachers", "students", "words"),
    [
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], [0], [1], r"profiles: all must have the same length, not \[2, 3\]"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, 1], [1, 1], "students: peer 1 cannot be its own teacher"),
    ],
)
def test_bad_pairs(profiles, teachers, students, words):
    with pytest.raises(ConfigError, match=words):
        contexts(profiles, teachers, students, 1, "compatible")


def test_a_profile_says_how_good_how_much_better_and_of_what():
    model = Model(lambda: torch.nn.Linear(4, 3))
    local = Profiled(SGD(steps=1), PROBE, 3)
    w = torch.cat([torch.tensor([[5.0, 0, 0, 5], [0, 5, 0, 0], [0, 0, 0, 0]]).flatten(), torch.zeros(3)])
    ctx = Context(1, 1, model, Session(Loop(model)), classes=torch.tensor([6, 0, 2]))
    s = {**local.init(model), PROFILE: torch.tensor([0.5, 0, 0, 0, 0])}
    _, after = local.end(w, s, ctx)
    assert torch.allclose(after[PROFILE], torch.tensor([0.75, 0.25, 0.75, 0.0, 0.25]))


def test_it_trains_as_the_inner_objective():
    check_local(Profiled(SGD(steps=2, momentum=0.5, keep=True), PROBE, 3))
    check_local(Profiled(SGD(steps=2), PROBE, 3, mapped=False))
    inner = SGD(0.3, epochs=2, batch=7)
    local = Profiled(inner, PROBE, 3)
    assert (local.epochs, local.steps, local.batch, local.rate(3)) == (2, None, 7, inner.rate(3))
    assert not local.fusable
