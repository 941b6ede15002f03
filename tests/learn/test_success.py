"""An attack succeeds where honest peers say of its test samples what it wants; without a goal it costs nothing."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small import BLOBS, build, workload

from hubless.errors import ConfigError
from hubless.learn import SGD, Attack, Gossip, Median, Star, success
from hubless.learn.attacks import SignFlip
from hubless.net.topologies import Full


@dataclass(frozen=True)
class Wants(Attack):
    """Every class ``source`` taken for ``target``; ``rotate`` gives each attacker the next target in turn."""

    target: int = 0
    source: int | None = None

    def data(self, w, x, y, book, ctx):
        book["peer"] = int(ctx.peer)
        return x, y

    def goal(self, x, y, book):
        keep = y != self.target if self.source is None else y == self.source
        return x[keep], torch.full_like(y[keep], self.target)


@dataclass(frozen=True)
class Rotating(Wants):
    def goal(self, x, y, book):
        target = book.get("peer", 0) % 3
        return x[y != target], torch.full_like(y[y != target], target)


@dataclass(frozen=True)
class Joint(Rotating):
    joint: ClassVar[bool] = True


def judged(run, *, whole):
    """The success of class 0 as a plain loop measures it, over honest peers' rows."""
    rows = run.snapshot().tensors["cohort.0/rows"]
    model, shards = run.models[0][0], run.shards
    few = len(shards.test_y) if whole else shards.few
    x, y = shards.test_x[:few], shards.test_y[:few]
    found = []
    for target in range(3):
        out = [(model.forward(w, x[y != target]).argmax(-1) == target).float().mean() for w in rows]
        found.append(torch.stack(out))
    return torch.stack(found)  # [targets, peers]


@pytest.mark.parametrize("overlay", [Gossip(Full()), Star()], ids=["gossip", "star"])
def test_success_is_what_a_plain_loop_measures(overlay):
    run = build(overlay=overlay, attack=Wants((1, 3)), workload=workload(test=20), local=SGD(0.05, steps=1, batch=4))
    *_, last, end = run.records()
    honest = [0] if isinstance(overlay, Star) else [0, 2, 4]
    for record, whole in ((last, False), (end, True)):
        assert record.metrics["attack_success"] == pytest.approx(float(judged(run, whole=whole)[0, honest].mean()))
        assert "attack_success_worst" not in record.metrics
    assert last.metrics["attack_success"] != end.metrics["attack_success"]


@pytest.mark.parametrize("overlay", [Gossip(Full()), Star()], ids=["gossip", "star"])
def test_attackers_who_differ_have_a_mean_and_a_worst(overlay):
    run = build(overlay=overlay, attack=Rotating((1, 3, 4)), merge=Median())
    *_, end = run.records()
    honest = [0] if isinstance(overlay, Star) else [0, 2]
    each = judged(run, whole=True)[[1, 0, 1]][:, honest].mean(1)
    assert end.metrics["attack_success"] == pytest.approx(float(each.mean()))
    assert end.metrics["attack_success_worst"] == pytest.approx(float(each.min()))


def test_hostile_peers_who_are_one_have_one_goal():
    *_, end = build(attack=Joint((1, 3, 4))).records()
    assert "attack_success" in end.metrics
    assert "attack_success_worst" not in end.metrics


def test_equal_goals_are_measured_once(monkeypatch):
    asked = []
    score = success.Success._score
    monkeypatch.setattr(success.Success, "_score", lambda self, *rest: asked.append(1) or score(self, *rest))
    list(build(attack=Wants((1, 2, 3)), rounds=2).records())
    assert len(asked) == 3  # two rounds and the end


def test_only_live_honest_peers_of_the_outcome_count():
    given = dict(attack=Wants((1, 3)), rounds=2, setting={"faults": "crash:peer=0+2@2"})
    run = build(**given)
    *_, end = run.records()
    assert end.metrics["attack_success"] == pytest.approx(float(judged(run, whole=True)[0, 4]))
    *_, end = build(attack=Wants((1, 3)), rounds=2, setting={"faults": "crash:peer=0+2+4@2"}).records()
    assert "attack_success" not in end.metrics


@pytest.mark.parametrize("attack", [None, SignFlip((1,)), Wants(())])
def test_without_a_goal_or_attackers_there_is_no_such_metric(attack):
    for record in build(attack=attack).records():
        assert "attack_success" not in record.metrics


def test_rounds_that_are_not_evaluated_have_no_success():
    records = list(build(attack=Wants((1,)), rounds=4, setting={"evaluate": 3}).records())
    assert [r.round for r in records if "attack_success" in r.metrics] == [3, 4, 4]


def test_a_goal_that_no_test_sample_can_show_is_refused_before_work():
    with pytest.raises(ConfigError, match="attack: none of the 51 test samples shows how far Wants gets"):
        build(attack=Wants((1,), source=7), workload=workload(data=BLOBS))
