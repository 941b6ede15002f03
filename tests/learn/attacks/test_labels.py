"""Wrong labels: what is flipped, what counts as success, and that peers can be made to learn them."""

import pytest
import torch
from small import PLAIN, build, close, first_row, rows, workload

from hubless.errors import ConfigError
from hubless.learn import SGD, Gossip, Median, Star
from hubless.learn.attacks import LabelFlip, ModelReplacement
from hubless.net.topologies import Full
from hubless.parts import make

Y = torch.tensor([0, 1, 2, 3, 4, 0])
X = torch.arange(6.0)[:, None]


@pytest.mark.parametrize(
    ("pair", "labels", "kept"),
    [(None, [4, 3, 2, 1, 0, 4], [0, 1, 3, 4, 5]), ((0, 3), [3, 1, 2, 0, 4, 3], [0, 3, 5])],
    ids=["all", "pair"],
)
def test_flips_and_goals(pair, labels, kept):
    attack = LabelFlip((0,), pair).fitted(5)
    x, y = attack.data(torch.zeros(1), X, Y, {}, None)
    assert x is X
    assert y.tolist() == labels
    inputs, wanted = attack.goal(X, Y, {})
    assert inputs.flatten().tolist() == kept
    assert wanted.tolist() == [labels[i] for i in kept]


@pytest.mark.parametrize("overlay", [Gossip(Full()), Star()], ids=["gossip", "star"])
def test_a_majority_teaches_wrong_labels_and_a_median_does_not_help_against_it(overlay):
    given = dict(overlay=overlay, merge=Median(), rounds=8, local=SGD(0.3, steps=5, batch=0), workload=workload(5))
    few = list(build(attack="label-flip:4", **given).records())[-1].metrics
    many = list(build(attack="label-flip:1+2+4", **given).records())[-1].metrics
    assert few["attack_success"] < 0.2 < 0.7 < many["attack_success"]
    assert few["accuracy"] > 0.8 > 0.6 > many["accuracy"]


def test_one_scaled_update_replaces_the_mean():
    """One attacker of six under a plain mean: scaled by 6, its wrong labels win; unscaled, they do not."""
    given = dict(overlay=Star(weigh="one"), rounds=8, local=SGD(0.3, steps=5, batch=0), workload=workload(6))
    plain, scaled = (
        list(build(attack=attack, **given).records())[-1].metrics["attack_success"]
        for attack in ("label-flip:3", "model-replacement:3")
    )
    assert plain < 0.2
    assert scaled > 0.6


def test_the_scale_is_peers_over_attackers_unless_given():
    """Only the attackers have data in this round, so that the role gets nothing but their scaled updates."""
    given = dict(overlay=Star(weigh="one"), rounds=1, local=SGD(0.3, steps=5, batch=0), workload=workload(6))
    given["setting"] = {"faults": "data:peer=0+1+2+4@1"}
    start = first_row(PLAIN)
    honest = rows(build(**given))[0] - start
    for scale, factor in ((None, 3), (2.0, 2)):
        attack = ModelReplacement((3, 5), scale=scale)
        close(rows(build(attack=attack, **given))[0] - start, factor * honest)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("label-flip:1:1-1", "attack.pair = 1-1: give two classes, counted from 0"),
        ("label-flip:1:0", "attack.pair = '0': give two classes such as 0-1, or all"),
        ("label-flip:1:0-3", "attack.pair = 0-3: the classes go from 0 to 2"),
        ("sybil:1:label-flip:0-3", "attack.pair = 0-3: the classes go from 0 to 2"),
    ],
)
def test_pairs_that_are_none(spec, words):
    with pytest.raises(ConfigError, match=words):
        build(attack=spec)


def test_data_without_classes_has_no_labels_to_flip():
    with pytest.raises(ConfigError, match="attack: label-flip needs data with two classes at least"):
        make("attack", "label-flip").check(0, (3,))
