"""Attacks around others: what they take over, and one attacker behind many identities."""

import pytest
import torch
from small import build, rows, workload

from hubless.learn import Gossip, WeightedMean
from hubless.learn.attacks import ALIE, Around, Backdoor, FreeRider, LabelFlip, ModelReplacement, Sybil
from hubless.net.topologies import Full
from hubless.parts import make


def test_the_outer_peers_count_and_reach_the_inner_attack():
    attack = Around((1, 2), Around((), LabelFlip((5,), (0, 1))))
    assert attack.inner.peers == attack.inner.inner.peers == (1, 2)
    run = build(attack=ModelReplacement(0.2, inner=LabelFlip()), workload=workload(10))
    assert run.attack.inner.peers == run.attack.peers == tuple(sorted(run.hostile))
    assert run.attack.inner.classes == 3


def test_what_the_inner_attack_sees_and_how_it_trains_is_kept():
    assert Around((1,), ALIE()).sees == "honest"
    assert Around((1,)).sees == "own"
    assert Around((1,), FreeRider()).local == FreeRider.local
    assert Around.sees == "own"  # of the class, nothing has changed


def test_an_attack_around_another_alone_is_that_attack():
    given = dict(overlay=Gossip(Full()), workload=workload(6))
    for inner in (LabelFlip((1, 4)), ALIE((1, 4), 1.0), FreeRider((1, 4))):
        assert torch.equal(rows(build(attack=Around((1, 4), inner), **given)), rows(build(attack=inner, **given)))


def test_names_say_what_is_inside():
    assert make("attack", "sybil:3+4:label-flip:0-1") == Sybil((3, 4), LabelFlip((), (0, 1)))
    assert make("attack", "sybil:3+4:label-flip:pair=0-1") == Sybil((3, 4), LabelFlip((), (0, 1)))
    found = make("attack", "model-replacement:3:10:backdoor:2:ratio=0.5")
    assert (found.scale, found.inner.targets, found.inner.ratio) == (10, (2,), 0.5)
    assert isinstance(found.inner, Backdoor)
    assert make("attack", "model-replacement").inner == LabelFlip(0.2)
    assert type(make("attack", "sybil:2:none").inner).__name__ == "Attack"


@pytest.mark.parametrize("inner", ["label-flip", "noise", "replay:1", "backdoor:1"])
def test_sybils_speak_with_one_voice_and_have_one_goal(inner):
    """A mean over all hears of n identities n times the same: the models of two populations differ by that weight."""
    run = build(attack=f"sybil:1+2+4:{inner}", overlay=Gossip(Full()), workload=workload(6), rounds=3)
    records = list(run.records())
    assert "attack_success_worst" not in records[-1].metrics
    assert ("attack_success" in records[-1].metrics) == (inner in ("label-flip", "backdoor:1"))
    books = [name for name in run.snapshot().tensors if name.startswith("attack/")]
    assert all(name.startswith("attack/i1") for name in books)


def test_a_sybil_weighs_in_the_mean_as_many_times_as_it_has_identities():
    one, three = (
        rows(build(attack=f"sybil:{ids}:scaling:3", overlay=Gossip(Full()), workload=workload(6), rounds=1))
        for ids in ("1", "1+2+4")
    )
    honest = rows(build(overlay=Gossip(Full()), workload=workload(6), rounds=1))
    assert float((three - honest)[0].norm()) > 1.5 * float((one - honest)[0].norm())


def test_a_sybil_needs_no_defence_of_its_own():
    assert isinstance(Sybil((1,)).reduce, WeightedMean)
    assert Sybil.joint
    assert not ModelReplacement.joint
