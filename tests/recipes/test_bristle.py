import math

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn import SGD
from hubless.learn.bristle import CLASSES
from hubless.learn.context import Context
from hubless.recipes.learning.bristle import Newcomers

RECIPE = catalogue.find("bristle").load()


def run(**options):
    return RECIPE.build(options, "tiny")


def end(**options):
    return list(run(**options).records())[-1].metrics


@pytest.mark.parametrize("attack", ["label-flip", "random-model:std=2", "negative-model:scale=4", "alie", "sybil"])
@pytest.mark.parametrize("merge", ["bristle", "krum"])
def test_any_attack_and_merge(attack, merge):
    metrics = end(attack=attack, merge=merge)
    assert math.isfinite(metrics["loss"])
    assert 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize("merge", ["bristle:score=f1", "bristle:2:1", "bristle:penalty=true", "mean", "trimmed-mean"])
def test_merges_with_skewed_classes(merge):
    assert math.isfinite(end(merge=merge, partition="windows:2:1")["loss"])


def test_hostile_peers_join_beside_the_honest_ones():
    start = next(iter(run().records())).data
    assert start["peers"] == 6
    assert start["hostile"] == [4, 5]
    assert sum(start["samples"]) == 120
    assert next(iter(run(attack="none").records())).data["peers"] == 4
    calm = next(iter(run(attackers=0).records())).data
    assert (calm["peers"], calm["hostile"]) == (4, [])


def test_they_train_in_their_own_way_only_where_their_data_are_poisoned():
    assert run(attack_lr=0.3, attack_steps=7).attack.local == SGD(lr=0.3, steps=7, batch=32)
    assert run(attack="negative-model").attack.local is None


def test_they_claim_every_class():
    attack = run(attack="random-model").attack
    assert isinstance(attack, Newcomers)
    model = run().models[0][0]
    ctx = Context(t=1, N=6, model=model, slope=None)
    said = {"w": torch.zeros(model.size), CLASSES: torch.tensor([1, 0, 0, 1], dtype=torch.uint8)}
    sent = attack.message(said, None, {}, ctx)
    assert sent[CLASSES].tolist() == [1, 1, 1, 1]
    assert sent[CLASSES].dtype == torch.uint8
    assert sent["w"].any()
    assert CLASSES not in attack.message({"w": said["w"]}, None, {}, ctx)


def test_peers_hold_what_the_trunk_makes_of_their_data():
    experiment = run()
    assert experiment.shards.x.shape[1:] == (6,)
    assert experiment.models[0][0].size == 6 * 4 + 4
    assert not experiment.models[0][0].start(0).any()
    for peer in range(6):
        y = experiment.shards.held(peer)[1]
        assert y.unique(return_counts=True)[1].tolist() == [3] * len(experiment.shards.own(peer)[1].unique())


def test_messages_hold_the_output_layer_and_a_byte_a_class():
    metrics = end()
    each = metrics["bytes"] / metrics["messages"]
    assert 4 * 28 + 4 < each < 4 * 28 + 4 + 80


def test_lonely_peers_send_nothing_and_learn():
    metrics = end(alone=True, attack="none", rounds=20, steps=10)
    assert metrics["messages"] == 0
    assert metrics["accuracy"] > 0.5


def test_bristle_withstands_what_breaks_the_mean():
    options = dict(attackers=4, rounds=15, steps=5, attack="negative-model:scale=4")
    assert end(**options)["accuracy"] > end(**options, merge="mean")["accuracy"] + 0.3


def test_weight_given_to_hostile_peers_is_in_the_record():
    records = [r.metrics for r in run(attack="random-model").records() if r.kind == "round"]
    assert all(0 <= metrics["hostile_weight"] < 0.5 for metrics in records)
    assert all(metrics["clamped_claims"] == 0 for metrics in records)
    assert "hostile_weight" not in end(merge="mean")


SLOTS = [
    dict(codec="float16"), dict(codec="delta+fedzip:0.3"), dict(merge="mean", privacy="dp-sgd:1:0.5"),
    dict(topology="ring"), dict(faults="loss:0.3,crash:2@2"),
]  # fmt: skip


@pytest.mark.parametrize("options", SLOTS, ids=str)
def test_other_slots(options):
    assert math.isfinite(end(**options)["loss"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(samples=81), "bristle.samples = 81: must be a multiple of the 4 honest peers"),
        (dict(held=0), "bristle.held = 0"),
        (dict(held=40), "held = 40: class '.' has"),
        (dict(merge="bristle:-1"), "merge.alpha = -1"),
        (dict(merge="bristle:score=f2"), "score = 'f2'"),
        (dict(pretrain="linear"), "pretrain: a trunk is trained on classes"),
        (dict(data="synthetic:features=9"), "pretrain: the trunk takes samples of shape"),
        (dict(merge="krum:f=5"), "merge.f = 5: Krum needs inboxes"),
        (dict(privacy="dp-sgd:1:0.5"), "Bristle makes what a peer sends of the peer's own data"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        run(**options)
