from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from hubless import catalogue
from hubless.data.dataset import Dataset
from hubless.data.dedup import DualHash
from hubless.data.gathered import Gathered, Held
from hubless.data.partitions import Dirichlet
from hubless.data.sets import digits
from hubless.errors import ConfigError
from hubless.learn import Attack

RECIPE = catalogue.find("fecalfed").load()
METHODS = ["fedadam", "fedavg", "fedprox", "local-only", "centralised"]


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    return list(experiment.records()), experiment


def gathered(share=0.4, peers=4, seed=0):
    data = digits().subset(300, 0)
    return data, Gathered.of(data, share, Dirichlet(1.0, 20), peers, seed)


@pytest.mark.parametrize("method", METHODS)
def test_a_tiny_run_is_the_same_twice(method):
    first, second = (run(method=method, seed=3)[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    last = first[-2].metrics
    assert 0 <= last["split_accuracy"] <= 1
    assert last["bytes"] == 0 if method in ("local-only", "centralised") else last["bytes"] > 0


def test_what_is_gathered_is_the_unique_images_and_their_copies():
    data, pool = gathered()
    assert len(pool.y) == pool.unique + pool.copies == 500
    assert np.array_equal(pool.y, data.y[pool.origin])
    assert set(pool.owner) == set(range(4))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_digests_across_peers_find_what_one_pool_would(share):
    _, pool = gathered(share)
    dedup = DualHash(2, 8)
    cleaned = pool.cleaned("peers", dedup)
    order = np.argsort(pool.owner, kind="stable")
    assert len(cleaned.y) == dedup.keep(pool.x[order]).sum()
    for origin in np.unique(cleaned.origin):  # an image stays with the lowest peer that had it, or its look-alike
        holders = pool.owner[pool.origin == origin]
        assert cleaned.owner[cleaned.origin == origin].min() >= holders.min()
    assert pool.cleaned("none", dedup) is pool
    assert cleaned.removed() >= pool.cleaned("own", dedup).removed() - 1e-9


def test_after_cleaning_no_copy_is_left_on_both_sides_of_the_split():
    leaks = {}
    for clean in ("peers", "none"):
        table = next(r for r in run(clean=clean)[0] if r.kind == "figure")
        leaks[clean] = table.metrics["leaked"]
    assert leaks["peers"] < 0.05 < 0.4 < leaks["none"]
    assert any("flatters" in r.data.get("text", "") for r in run(clean="none")[0] if r.kind == "event")


def test_the_split_is_stratified_and_loses_nothing():
    data, pool = gathered()
    train, test = pool.split(0.25, 0, data.classes)
    assert len(train.y) + len(test.y) == len(pool.y)
    share = np.bincount(test.y, minlength=10) / np.bincount(pool.y, minlength=10)
    assert abs(share - 0.25).max() < 0.05


def test_the_first_round_is_an_adam_step_along_the_mean_update():
    averaged, adapted = (run(method=m, rounds=1, server_lr=0.5)[1] for m in ("fedavg", "fedadam"))
    start = run(method="fedavg", rounds=1, lr=1e-12)[1].snapshot().tensors["cohort.0/rows"][0]
    delta = averaged.snapshot().tensors["cohort.0/rows"][0] - start
    step = 0.5 * 0.1 * delta / ((0.99 * 1e-6 + 0.01 * delta**2).sqrt() + 1e-3)
    assert torch.allclose(adapted.snapshot().tensors["cohort.0/rows"][0], start + step, atol=1e-5)


def test_everyone_scores_on_the_same_honest_images():
    tests = [RECIPE.build({"method": m}, "tiny").shards.test_x for m in METHODS]
    assert all(torch.equal(t, tests[0]) for t in tests)
    assert len(tests[0]) == 200


@dataclass(frozen=True)
class Poison(Attack):
    peers: tuple[int, ...] = (2,)

    def message(self, m, honest, book, ctx):
        return {name: torch.full_like(value, torch.nan) for name, value in m.items()}


def test_a_farm_that_sends_no_numbers_is_rejected_and_logged():
    plain = RECIPE.build({}, "tiny")
    records = list(replace(plain.learning, attack=Poison()).under(plain.setting).records())
    assert records[-2].metrics["rejected"] == 3
    assert any("peer 2" in r.data["text"] and "not finite" in r.data["text"] for r in records if r.kind == "event")
    assert np.isfinite(records[-1].metrics["loss"])


def test_a_farm_whose_training_blows_up_is_dropped():
    assert RECIPE.build({}, "tiny").setting.nonfinite == "drop"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partition": "dirichlet:0"}, "alpha = '0'|alpha = 0"),
        ({"partition": "dirichlet:-1"}, "alpha"),
        ({"min_size": 100}, r"min_size = 100: peer \d has"),
        ({"duplicates": 1.0}, "duplicates = 1.0"),
        ({"threshold": 64}, "threshold = 64"),
        ({"test": 0}, "test = 0"),
        ({"samples": 10**9}, "samples = 1000000000"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_a_class_without_test_images_is_an_error():
    y = np.concatenate([np.repeat(np.arange(3), 30), [3]])
    data = Dataset.of(np.random.default_rng(0).random((91, 1, 8, 8)), y, test=(np.zeros((4, 1, 8, 8)), np.arange(4)))
    pool = Gathered.of(data, 0.0, Dirichlet(1.0, 5), 3, 0)
    with pytest.raises(ConfigError, match="class '3' has no image in the test split"):
        pool.split(0.2, 0, data.classes)


def test_holders_are_checked():
    y = np.arange(4)
    assert [list(rows) for rows in Held(((0, 2), (1, 3))).split(y, 2, 0)] == [[0, 2], [1, 3]]
    with pytest.raises(ConfigError, match="sample 2 is held 2 times"):
        Held(((0, 2), (1, 2, 3))).split(y, 2, 0)
    with pytest.raises(ConfigError, match="3 samples are held, but there are 4"):
        Held(((0, 2), (1,))).split(y, 2, 0)
    with pytest.raises(ConfigError, match="cannot be those of 3"):
        Held(((0, 2), (1, 3))).split(y, 3, 0)
