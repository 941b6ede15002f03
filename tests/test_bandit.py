import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.bandit import LinUCB
from hubless.errors import ConfigError
from hubless.learn.codecs import Raw

NUMBERS = st.floats(-10, 10, allow_nan=False, width=32)


def lessons(width, count):
    contexts = st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=count, max_size=count)
    return st.tuples(contexts, st.lists(NUMBERS, min_size=count, max_size=count))


def learned(bandit, seed=0, times=40):
    """A state after rewards that are linear in contexts, with the truth."""
    rng = np.random.default_rng(seed)
    truth, memory = rng.normal(size=bandit.width), bandit.init()
    for _ in range(times):
        x = rng.normal(size=(3, bandit.width))
        memory = bandit.update(memory, x, x @ truth + 0.01 * rng.normal(size=3))
    return memory, truth


def test_scores_are_the_formula():
    bandit = LinUCB(4, ridge=0.5, beta=2.0)
    memory, _ = learned(bandit)
    x = np.random.default_rng(1).normal(size=(5, 4))
    inverse = np.linalg.inv(memory["A"].numpy())
    for t in (1, 9):
        wide = 2.0 / np.sqrt(t) * np.sqrt(np.einsum("md,de,me->m", x, inverse, x))
        assert np.allclose(bandit.scores(memory, x, t), x @ inverse @ memory["b"].numpy() + wide)


def test_theta_finds_the_truth_and_doubt_shrinks():
    bandit = LinUCB(5, ridge=0.01)
    memory, truth = learned(bandit)
    assert np.allclose(bandit.theta(memory), truth, atol=0.02)
    x = np.ones((1, 5))
    doubt = [bandit.scores(m, x, 1) - x @ bandit.theta(m) for m in (bandit.init(), memory)]
    assert doubt[1] < 0.1 * doubt[0]


def test_one_update_is_many():
    bandit = LinUCB(3)
    rng = np.random.default_rng(2)
    x, r = rng.normal(size=(6, 3)), rng.normal(size=6)
    once = bandit.update(bandit.init(), x, r)
    memory = bandit.init()
    for i in range(6):
        memory = bandit.update(memory, x[i : i + 1], r[i : i + 1])
    for name, value in once.items():
        assert torch.allclose(value, memory[name]), name


@settings(max_examples=40, deadline=None)
@given(st.lists(lessons(3, 2), max_size=8), st.booleans())
def test_the_matrix_stays_symmetric_and_positive_definite(rounds, standard):
    bandit = LinUCB(3, ridge=0.01, standard=standard)
    memory = bandit.init()
    for x, r in rounds:
        memory = bandit.update(memory, x, r)
    A = memory["A"]
    assert torch.equal(A, A.T)
    assert torch.linalg.eigvalsh(A).min() >= 0.01 - 1e-9 * A.abs().max()
    assert int(memory["count"]) == 2 * len(rounds)


@settings(max_examples=40, deadline=None)
@given(st.lists(lessons(2, 3), min_size=1, max_size=5), st.floats(0.1, 10), st.floats(-5, 5))
def test_standardised_rewards_know_no_unit(rounds, scale, shift):
    """Up to what the floor under the deviation does, where all rewards are alike."""
    bandit = LinUCB(2, standard=True)
    plain, other = bandit.init(), bandit.init()
    for x, r in rounds:
        r = np.array(r)
        plain, other = bandit.update(plain, x, r), bandit.update(other, x, scale * r + shift)
        if r.std() < 0.01:
            return
    assert np.allclose(bandit.theta(plain), bandit.theta(other), atol=1e-3)


def test_moments_are_those_of_all_rewards():
    bandit = LinUCB(1, standard=True)
    rewards = np.random.default_rng(3).normal(5, 2, size=(7, 4))
    memory = bandit.init()
    for r in rewards:
        memory = bandit.update(memory, np.ones((4, 1)), r)
    assert float(memory["mean"]) == pytest.approx(rewards.mean())
    assert np.sqrt(float(memory["spread"]) / 28) == pytest.approx(rewards.std())


def test_the_state_is_a_message_that_changes_nothing():
    bandit = LinUCB(4, standard=True)
    memory, _ = learned(bandit)
    moved = Raw().unpack(Raw().pack(memory))
    x, r = np.eye(4)[:2], [0.5, -0.5]
    assert np.array_equal(bandit.scores(moved, x, 3), bandit.scores(memory, x, 3))
    after = bandit.update(memory, x, r)
    for name, value in bandit.update(moved, x, r).items():
        assert torch.equal(value, after[name])
        assert value.dtype == memory[name].dtype
    assert not torch.equal(after["b"], memory["b"])


def test_nothing_is_changed_in_place():
    bandit = LinUCB(2)
    memory = bandit.init()
    bandit.update(memory, [[1.0, 2.0]], [3.0])
    assert torch.equal(memory["A"], torch.eye(2, dtype=torch.float64))
    assert int(memory["count"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0}, "bandit.width = 0"),
        ({"width": 2, "ridge": 0.0}, "bandit.ridge = 0.0: must be above 0"),
        ({"width": 2, "beta": -1.0}, "bandit.beta = -1.0"),
        ({"width": 2, "beta": float("nan")}, "bandit.beta = nan"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        LinUCB(**options)


@pytest.mark.parametrize(
    ("contexts", "rewards", "words"),
    [
        ([[1.0, 2.0]], [float("nan")], r"bandit.rewards\[0\] = nan: must be finite"),
        ([[1.0, 2.0]], [1.0, 2.0], "bandit.rewards: must be one for each of 1 contexts"),
        ([[1.0, 2.0, 3.0]], [1.0], r"bandit.contexts: must be of shape \[M, 2\], not \[1, 3\]"),
        ([[1.0, float("inf")]], [1.0], "bandit.contexts: must be finite"),
    ],
)
def test_bad_lessons(contexts, rewards, words):
    bandit = LinUCB(2)
    with pytest.raises(ConfigError, match=words):
        bandit.update(bandit.init(), contexts, rewards)


def test_a_state_of_another_bandit_is_refused():
    with pytest.raises(ConfigError, match=r"bandit.A: a state of 2 numbers has \[2, 2\], this is \[3, 3\]"):
        LinUCB(2).scores(LinUCB(3).init(), [[1.0, 2.0]], 1)
    with pytest.raises(ConfigError, match=r"bandit.mean: .* this is missing"):
        LinUCB(2).theta({k: v for k, v in LinUCB(2).init().items() if k != "mean"})
