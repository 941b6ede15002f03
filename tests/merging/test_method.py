import pytest
import torch

from hubless.errors import ConfigError
from hubless.merging import Dare, Mean, RegMean, Slerp, TaskArithmetic, Ties, merge
from hubless.merging.method import Method, prepared
from hubless.merging.search import task_vectors


def models(count=3):
    generator = torch.Generator().manual_seed(0)
    return [{"a.weight": torch.randn(40, 5, generator=generator)} for _ in range(count + 1)]


def unasked(base, vectors):
    raise AssertionError("a rule alone is judged by nobody")


def test_methods_keep_what_their_rules_keep():
    base, *experts = models()
    vectors = task_vectors(base, experts)["a.weight"]
    ties = prepared(Ties(0.25), base, experts, 1)["a.weight"]
    kept = ties != 0
    assert int(kept.flatten(1).sum(1).max()) <= 50
    assert torch.equal(ties[kept], vectors[kept])
    assert bool(((ties.sign().sum(0)).abs() == kept.sum(0)).all()), "all that is left of a value has one sign"
    dare = prepared(Dare(0.25), base, experts, 1)["a.weight"]
    assert torch.allclose(dare[dare != 0], 4 * vectors[dare != 0])
    assert 0.15 < float((dare != 0).float().mean()) < 0.35
    assert torch.equal(prepared(TaskArithmetic(), base, experts, 1)["a.weight"], vectors)


@pytest.mark.parametrize("rule", [Mean(), TaskArithmetic(), Dare(1.0)])
def test_sums_of_task_vectors_are_made_means(rule):
    base, *experts = models()
    merged, found = Method(rule, "none").merged(base, experts, None, unasked, 1)
    assert found is None
    torch.testing.assert_close(merged["a.weight"], torch.stack([one["a.weight"] for one in experts]).mean(0))


def test_an_arc_goes_through_all_experts_with_equal_shares():
    base, *experts = models()
    merged, _ = Method(Slerp(), "none").merged(base, experts, None, unasked, 1)
    half = merge(Slerp(), experts[:2])
    wanted = merge(Slerp(), [half, experts[2]], weights=[2 / 3, 1 / 3])
    torch.testing.assert_close(merged, wanted)
    assert torch.equal(Method(Slerp(), "none").merged(base, experts[:1], None, unasked, 1)[0]["a.weight"],
                       experts[0]["a.weight"])  # fmt: skip


@pytest.mark.parametrize("search", ["layer-wise", "scalar"])
def test_a_search_finds_the_expert_that_is_wanted(search):
    base, *experts = models()
    base, experts = base, experts[:1]

    def judge(origin, vectors):
        return lambda table: -(table - 1).abs().sum((1, 2))

    merged, found = Method(TaskArithmetic(), search, generations=15).merged(base, experts, None, judge, 1)
    assert found is not None
    torch.testing.assert_close(merged["a.weight"], experts[0]["a.weight"], atol=0.05, rtol=0)


@pytest.mark.parametrize("rule", [Mean(), Slerp(), RegMean()])
def test_a_search_needs_task_vectors(rule):
    with pytest.raises(ConfigError, match=f"tunes task vectors, which {type(rule).__name__} does not use"):
        Method(rule, "scalar")


def test_no_common_base():
    _, *experts = models()
    with pytest.raises(ConfigError, match="Ties needs the model that all others were fine-tuned from"):
        merge(Ties(), experts)
    with pytest.raises(ConfigError, match=r"expert 0 differs from the base.*b.weight"):
        task_vectors({"b.weight": torch.zeros(40, 5)}, experts)
