import math

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.fusion.oneshot import BASE, EXPERTS, ORIGIN
from hubless.merging.search import layers
from hubless.recipes.learning.model_merging import Specialists

RECIPE = catalogue.find("model-merging").load()
TEXTS = dict(path="unconstrained", sources="fnmatch/shlex", base_steps=3, generations=2)


def build(**options):
    return RECIPE.build(options, "tiny")


def run(**options):
    experiment = build(**options)
    return experiment, list(experiment.records())


def end(**options):
    return run(**options)[1][-1].metrics


def book(experiment, peer=0):
    return experiment._state.wiring.population.book(peer)


PATHS = [{}, dict(path="heterogeneous"), dict(path="composition", experts=2, base_steps=2, generations=1)]


@pytest.mark.parametrize("options", PATHS, ids=str)
def test_a_tiny_run_is_the_same_twice(options):
    first, second = (run(seed=3, **options)[1] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    assert math.isfinite(first[-1].metrics["loss"])


def test_the_publisher_has_all_classes_and_each_expert_its_own():
    experiment = build(data="synthetic:samples=600:classes=7:features=6", held=3, samples=0)
    table = experiment.shards.classes
    assert bool((table[0] > 0).all())
    owners = (table[1:] > 0).int()
    assert owners.sum(0).tolist() == [1] * 7
    assert [row.nonzero().flatten().tolist() for row in owners] == [[0, 1, 2], [3, 4], [5, 6]]
    assert experiment.shards.held(0)[1].unique(return_counts=True)[1].tolist() == [3] * 7
    ten = torch.arange(100).numpy() % 10
    parts = Specialists().split(ten, 4, 1)
    assert [sorted(set(ten[rows].tolist())) for rows in parts[1:]] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_every_model_is_sent_once_and_merged_by_the_publisher():
    experiment, records = run()
    assert records[-1].metrics["messages"] == 6
    memory, population = book(experiment), experiment._state.wiring.population
    assert memory["who"] == [1, 2, 3]
    for at, expert in enumerate(memory[EXPERTS]):
        assert torch.equal(expert, population.peer(1 + at)[1])
        assert torch.equal(population.book(1 + at)[BASE], memory[BASE])
    model = experiment.models[0][0]
    found = memory["search"]["coefficients"]
    assert found.shape == (len(layers(model.names)), 3)
    merged = model.unflatten(population.peer(0)[1])
    for at, names in enumerate(layers(model.names).values()):
        for name in names:
            base = model.unflatten(memory[BASE])[name]
            moves = [model.unflatten(row)[name] - base for row in memory[EXPERTS]]
            wanted = base + sum(c * move for c, move in zip(found[at], moves, strict=True))
            torch.testing.assert_close(merged[name], wanted)


def test_all_may_merge_and_the_mean_is_the_same_for_all():
    experiment, records = run(exchange="all", rule="mean", search="none")
    assert records[-1].metrics["messages"] == 3 + 3 + 6
    rows = experiment.snapshot().tensors["cohort.0/rows"]
    assert bool((rows == rows[0]).all())
    torch.testing.assert_close(rows[0], book(experiment)[EXPERTS].mean(0))
    assert records[-1].metrics["consensus"] == 0


RULES = ["mean", "slerp", "task-arithmetic", "ties:0.3", "dare", "fisher", "regmean"]


@pytest.mark.parametrize("rule", RULES)
def test_rules_alone(rule):
    assert 0 <= end(rule=rule, search="none")["accuracy"] <= 1


@pytest.mark.parametrize("rule", ["ties:0.3", "dare:0.5"])
@pytest.mark.parametrize("search", ["layer-wise", "scalar"])
def test_searches_over_what_a_rule_keeps(rule, search):
    assert math.isfinite(end(rule=rule, search=search)["loss"])


def test_statistics_travel_with_the_models_and_are_counted():
    sizes = {rule: end(rule=rule, search="none")["bytes"] for rule in ("mean", "fisher", "regmean")}
    row = build().models[0][0].size
    assert sizes["fisher"] - sizes["mean"] == pytest.approx(3 * 4 * row, rel=0.2)
    assert sizes["regmean"] > sizes["fisher"]


def test_a_later_round_begins_from_what_was_merged():
    experiment, records = run(rounds=2, rule="mean", search="none")
    assert len([r for r in records if r.kind == "round"]) == 2
    once, _ = run(rounds=1, rule="mean", search="none")
    merged = once._state.wiring.population.peer(0)[1]
    assert torch.equal(book(experiment)[BASE], merged)


def test_the_report_compares_methods_on_the_same_experts():
    _, records = run(compare=True)
    last = next(r for r in records if r.kind == "round").metrics
    alone = end(rule="regmean", search="none")["accuracy"]
    assert last["accuracy_regmean"] == pytest.approx(alone, abs=1e-6)
    figures = {r.data["name"]: r.data for r in records if r.kind == "figure"}
    assert set(figures) == {"arms", "coefficients", "search"}
    assert len(figures["arms"]["labels"]) == len(figures["arms"]["groups"]["accuracy"]) == 1 + 3 + 8
    assert figures["coefficients"]["y"] == ["layer 1", "layer 3"]


def test_merging_helps():
    options = dict(base_steps=60, steps=60, lr=0.2, samples=800, generations=10, held=8)
    metrics = run(**options)[1]
    last, final = next(r for r in metrics if r.kind == "round").metrics, metrics[-1].metrics
    assert final["accuracy"] > last["accuracy_expert"] + 0.05


def test_the_fusion_moves_the_pivot_and_counts_its_bytes():
    _, records = run(path="heterogeneous", base_steps=3, fuse_steps=20)
    last = next(r for r in records if r.kind == "round").metrics
    assert last["bits_fnmatch"] < last["bits_fnmatch_before"]
    assert 0 <= last["taken"] <= 1
    assert last["messages"] == 1
    assert next(r for r in records if r.kind == "figure").data["name"] == "bits"


def test_the_pivot_may_train_on_alone_instead():
    last = end(path="heterogeneous", fuse="own")
    assert last["messages"] == 0


def test_unconstrained_fuses_each_pair_and_merges_the_pivots():
    experiment, records = run(**TEXTS)
    assert records[-1].metrics["messages"] == 1 + 2 + 1
    memory = book(experiment)
    assert memory["who"] == [0, 1]
    assert memory["search"]["coefficients"].shape == (6, 2)
    assert not torch.equal(memory[EXPERTS][0], memory[EXPERTS][1])
    assert {"bits_csv", "bits_fnmatch", "bits_shlex"} <= set(next(r for r in records if r.kind == "round").metrics)


def test_a_resumed_run_says_the_same():
    whole = [r.line() for r in build(rounds=3).records()]
    first = build(rounds=3)
    for record in first.records():
        if record.kind == "round" and record.round == 2:
            snapshot = first.snapshot()
            break
    rest = [r.line() for r in build(rounds=3).records(snapshot)]
    assert whole[-len(rest) :] == rest


SLOTS = [
    dict(codec="float16"), dict(codec="zstd"), dict(faults="loss:0.4"), dict(attack="sign-flip:1"),
    dict(faults="crash:1@1"), dict(path="heterogeneous", codec="float16"), dict(trainable="head"),
    dict(model="cnn-bn", rule="mean", search="none"), dict(rule="fisher", search="none", codec="zstd"),
]  # fmt: skip


@pytest.mark.parametrize("options", SLOTS, ids=str)
def test_other_slots(options):
    assert math.isfinite(end(**options)["loss"])


def test_experts_that_never_heard_the_base_are_left_out():
    experiment, _ = run(rounds=2, faults="loss:0.5", seed=4)
    said = [peer for peer in range(1, 4) if ORIGIN not in book(experiment, peer)]
    assert not set(book(experiment).get("who", [])) & set(said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(held=0), "held = 0: search 'layer-wise' is judged by samples that are held out"),
        (dict(rule="mean"), "search = 'layer-wise': tunes task vectors, which Mean does not use"),
        (dict(rule="fishe"), "unknown rule 'fishe'; did you mean 'fisher'"),
        (dict(experts=11), "experts = 11: the data has only 10 classes"),
        (dict(generations=0), "generations = 0"),
        (dict(sigma=0), "sigma = 0"),
        (dict(path="composition"), "experts = 3: path composition has 2"),
        (dict(path="heterogeneous", texts=10**6), "texts = 1000000: fnmatch has only"),
        (dict(path="heterogeneous", sources="no_such"), "no_such"),
        (dict(path="heterogeneous", width=6), "width = 6: must be a multiple"),
        (dict(path="heterogeneous", lam=1.5), "lam = 1.5"),
        (dict(data="linear", samples=0, held=0), "held = 0|needs class labels"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        build(**options)
