"""Rules on tensors: what each promises, whatever the models."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.merging import (
    Dare,
    DareTies,
    Fisher,
    Mean,
    RegMean,
    Slerp,
    TaskArithmetic,
    Ties,
    rule,
    seeded,
    task_vectors,
)
from hubless.parts import make, parts

FEW = settings(max_examples=30, deadline=None)
SEEDS = st.integers(0, 1 << 30)
DETERMINED = [
    Mean(), TaskArithmetic(0.7), Ties(0.3), Ties(0.5, scale=1.5, normalize=False), Fisher(), RegMean(0.5),
    Dare(1.0), DareTies(1.0),
]  # fmt: skip


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def models(seed, count=3, shape=(5, 4)):
    """A base, and models around it, in double precision."""
    base = drawn(seed, *shape)
    return base, [base + 0.3 * drawn(seed + 1 + place, *shape) for place in range(count)]


def statistics(one, tensors, seed):
    if one.statistics == "fisher":
        return [drawn(seed + place, *tensor.shape).square() for place, tensor in enumerate(tensors)]
    if one.statistics == "gram":
        inputs = [drawn(seed + place, 9, tensor.shape[1]) for place, tensor in enumerate(tensors)]
        return [x.T @ x for x in inputs]
    return None


def merged(one, tensors, base, seed=0, weights=None, known=None):
    known = statistics(one, tensors, seed) if known is None else known
    return one(tensors, weights=weights, base=base, statistics=known, draw=seeded(seed, "t"))


@pytest.mark.parametrize("one", [Mean(), Fisher(), RegMean(0.5), Ties(1.0), DareTies(1.0), TaskArithmetic()], ids=str)
@FEW
@given(seed=SEEDS, share=st.floats(0.1, 0.8))
def test_the_merge_of_equal_models_is_the_model(one, seed, share):
    base, (model,) = models(seed, 1)
    torch.testing.assert_close(merged(one, [model] * 3, base, seed, [share, 0.1, 0.9 - share]), model)
    torch.testing.assert_close(Slerp()([model, model], weights=[share, 1]), model)


@pytest.mark.parametrize("one", [*DETERMINED, Dare(0.3), DareTies(0.3)], ids=str)
def test_models_that_learned_nothing_are_the_base(one):
    base, _ = models(0)
    torch.testing.assert_close(merged(one, [base, base], base, 0), base)


@pytest.mark.parametrize("one", DETERMINED, ids=str)
@FEW
@given(seed=SEEDS, order=st.permutations(range(4)))
def test_the_order_of_the_models_does_not_matter(one, seed, order):
    base, tensors = models(seed, 4)
    weights = drawn(seed, 4).abs().tolist()
    known = statistics(one, tensors, seed)
    turned = merged(
        one, [tensors[i] for i in order], base, seed, [weights[i] for i in order], known and [known[i] for i in order]
    )
    torch.testing.assert_close(turned, merged(one, tensors, base, seed, weights, known))


@pytest.mark.parametrize("one", [*DETERMINED, Dare(0.4), DareTies(0.4, rescale="l1")], ids=str)
@FEW
@given(seed=SEEDS)
def test_blocks_do_not_matter_and_nothing_given_is_changed(one, seed):
    base, tensors = models(seed, 3, (23, 6))
    before = [tensor.clone() for tensor in (base, *tensors)]
    whole = merged(one, tensors, base, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "BLOCK", 7)
        torch.testing.assert_close(merged(one, tensors, base, seed), whole)
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *tensors), strict=True))


@FEW
@given(seed=SEEDS, weights=st.lists(st.floats(0.01, 10), min_size=3, max_size=3))
def test_the_mean_is_that_of_the_weights(seed, weights):
    _, tensors = models(seed)
    expected = sum(w * x for w, x in zip(weights, tensors, strict=True)) / sum(weights)
    torch.testing.assert_close(Mean()(tensors, weights=weights), expected)


@FEW
@given(seed=SEEDS, t=st.floats(0, 1))
def test_slerp_keeps_the_norm_of_models_of_one_norm(seed, t):
    one, other = drawn(seed, 12), drawn(seed + 1, 12)
    other = other * (one.norm() / other.norm())
    cosine = float(torch.dot(one, other) / one.norm().square())
    assume(abs(cosine) < 0.999)
    between = Slerp()([one, other], weights=[1 - t, t])
    torch.testing.assert_close(between.norm(), one.norm())
    turned = float(torch.dot(one, between) / one.norm().square())
    assert turned == pytest.approx(math.cos(t * math.acos(cosine)))


@FEW
@given(seed=SEEDS, t=st.floats(0, 1), length=st.floats(0.1, 10))
def test_slerp_has_a_norm_between_those_of_models_less_than_a_right_angle_apart(seed, t, length):
    one, other = drawn(seed, 12), length * drawn(seed + 1, 12)
    assume(float(torch.dot(one, other)) >= 0)
    least, most = sorted([float(one.norm()), float(other.norm())])
    assert least * (1 - 1e-3) <= float(Slerp()([one, other], weights=[1 - t, t]).norm()) <= most * (1 + 1e-3)


def test_slerp_of_parallel_and_opposite_tensors_is_linear():
    one = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(Slerp()([one, 3 * one]), 2 * one)
    torch.testing.assert_close(Slerp()([one, -one]), torch.zeros(2))
    assert bool(Slerp()([one, torch.zeros(2)]).isfinite().all())


@FEW
@given(seed=SEEDS)
def test_ties_of_agreeing_signs_with_density_1_is_the_mean(seed):
    base, tensors = models(seed)
    agreeing = [base + (tensor - base).abs() for tensor in tensors]
    torch.testing.assert_close(Ties(1.0)(agreeing, base=base), sum(agreeing) / 3)


def test_ties_worked_by_hand():
    base = torch.zeros(4)
    one, other = torch.tensor([4.0, -3.0, 1.0, 0.5]), torch.tensor([-1.0, -5.0, 2.0, 6.0])
    assert Ties(0.5)([one, other], base=base).tolist() == [4, -4, 0, 6]  # 4 -3 . . and . -5 . 6
    assert Ties(0.5, scale=0.5, normalize=False)([one, other], base=base).tolist() == [2, -4, 0, 3]
    assert Ties(1.0)([one, other], base=base, weights=[1, 3]).tolist() == [4, -4.5, 1.75, 4.625]


@FEW
@given(seed=SEEDS, density=st.floats(0.01, 1), distinct=st.integers(1, 30))
def test_trimming_keeps_the_largest_values_and_of_equal_ones_the_first(seed, density, distinct):
    values = (drawn(seed, 30) * distinct).round()
    kept = task_vectors.largest(values, torch.zeros(30), density)
    kept = torch.ones(30, dtype=torch.bool) if kept is None else kept
    order = torch.argsort(values.abs(), descending=True, stable=True)
    assert sorted(kept.nonzero()[:, 0].tolist()) == sorted(order[: max(1, int(density * 30))].tolist())


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_is_right_in_the_mean(density):
    base, tensors = models(0, 2)
    whole = TaskArithmetic(0.5)(tensors, base=base)
    draws = torch.stack([Dare(density, 0.5)(tensors, base=base, draw=seeded(seed, "t")) for seed in range(500)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - whole).abs() < 5 * error).all())
    assert float(error.min()) > 0


def test_dare_drops_by_seed_name_and_model():
    draws = [seeded(0, "a")(0, 99), seeded(1, "a")(0, 99), seeded(0, "b")(0, 99), seeded(0, "a")(1, 99)]
    assert all(not torch.equal(one, other) for i, one in enumerate(draws) for other in draws[:i])
    assert torch.equal(draws[0], seeded(0, "a")(0, 99))
    kept = Dare(0.25)([torch.ones(10_000)], base=torch.zeros(10_000), draw=seeded(0, "a"))
    assert set(kept.tolist()) == {0.0, 4.0}
    assert 2300 < int((kept > 0).sum()) < 2700


@pytest.mark.parametrize("one", [Dare(0.3, rescale="l1"), DareTies(0.3, rescale="l1")])
def test_l1_keeps_the_sum_of_absolute_values(one):
    model = drawn(3, 1000).float()
    kept = one([model], base=torch.zeros(1000), draw=seeded(0, "a"))
    torch.testing.assert_close(kept.abs().sum(), model.abs().sum())


def test_fisher_trusts_who_knows():
    one, other = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 3.0])
    known = [torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])]
    assert Fisher()([one, other], statistics=known).tolist() == [2, 1.5, 2]
    assert Fisher()([one, other], statistics=known, weights=[1, 3]).tolist() == pytest.approx([2.5, 2, 2.5])
    assert Fisher()([one, other]).tolist() == [2, 2, 2]  # a tensor of which nothing is known


@FEW
@given(seed=SEEDS)
def test_regmean_answers_each_models_inputs_in_least_squares(seed):
    _, tensors = models(seed, 2, (3, 4))
    inputs = [drawn(seed + 7 + place, 9, 4) for place in range(2)]
    answered = torch.cat([x @ w.T for x, w in zip(inputs, tensors, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(inputs), answered).solution.T
    found = RegMean(alpha=1)(tensors, statistics=[x.T @ x for x in inputs])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_regmean_leaves_weights_of_unseen_inputs_at_the_mean():
    one, other = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 5.0]])
    dead = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(RegMean()([one, other], statistics=[3 * dead, dead]), torch.tensor([[1.5, 3.0]]))
    assert RegMean()([one[0], other[0]]).tolist() == [2, 3]


@pytest.mark.parametrize(("kind", "within"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_the_work_is_done_in_float32(kind, within):
    base, tensors = models(5)
    for one in (Mean(), Ties(0.5), TaskArithmetic()):
        rough = merged(one, [tensor.to(kind) for tensor in tensors], base.to(kind))
        assert rough.dtype == torch.float32
        exact = merged(one, [tensor.to(kind).double() for tensor in tensors], base.to(kind).double())
        torch.testing.assert_close(rough.double(), exact, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(rough.double(), merged(one, tensors, base), atol=30 * within, rtol=within)


def test_tensors_without_values_or_without_dimensions():
    for one in (Mean(), Ties(0.5), Dare(), Slerp()):
        for shape in ((), (0, 3)):
            tensors = [torch.ones(shape), torch.ones(shape)]
            torch.testing.assert_close(merged(one, tensors, torch.zeros(shape)).isfinite().all(), torch.tensor(True))
            assert merged(one, tensors, torch.zeros(shape)).shape == shape


BAD = {
    "must be one a model, and there are 2": (Mean(), dict(weights=[1.0])),
    "weights = nan, 1: must be finite": (Mean(), dict(weights=[math.nan, 1])),
    "weights = -1, 2: Mean needs 0 or more": (Mean(), dict(weights=[-1, 2])),
    "weights = 0, 0: Slerp needs 0 or more, and one above 0": (Slerp(), dict(weights=[0, 0])),
    "base: Ties needs the model that all others were fine-tuned from": (Ties(), dict()),
    "values are dropped at random": (Dare(), dict(base=torch.zeros(2))),
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_rule_cannot_do_is_said(what):
    one, given = BAD[what]
    with pytest.raises(ConfigError, match=what):
        one([torch.ones(2), torch.ones(2)], **given)


def test_slerp_takes_two():
    with pytest.raises(ConfigError, match="Slerp merges 2, not 3"):
        Slerp()([torch.ones(2)] * 3)


def test_task_arithmetic_unlearns_with_a_negative_weight():
    assert TaskArithmetic()([torch.tensor(3.0), torch.tensor(2.0)], base=torch.tensor(1.0), weights=[1, -1]) == 2


def test_a_text_names_a_rule():
    assert make("rule", "ties:0.5") == Ties(0.5)
    assert make("rule", "dare-ties:density=0.3:rescale=l1:normalize=no") == DareTies(0.3, 1.0, "l1", False)
    assert set(parts("rule")) == {
        "mean", "slerp", "task-arithmetic", "ties", "dare", "dare-ties", "fisher", "regmean"
    }  # fmt: skip
    for text in ("ties:0", "dare:1.5", "ties:density=nan", "regmean:2", "fisher:0", "dare:0.5:rescale=l2"):
        with pytest.raises(ConfigError):
            make("rule", text)
    for broken in (lambda: Ties(0), lambda: Dare(2.0), lambda: RegMean(-1), lambda: Fisher(0)):
        with pytest.raises(ConfigError, match="must be"):
            broken()
