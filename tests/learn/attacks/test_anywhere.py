"""Every attack works everywhere: streamed or kept, whole rows or inboxes, models or deltas, with names that differ."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from small import BATCHNORM, GROUPS, PLAIN, SEED, build, close, finish, network, rows, workload

from hubless.learn import (
    SGD,
    Codec,
    ControlVariate,
    Distil,
    Gossip,
    Hook,
    Median,
    Merge,
    Model,
    Rotating,
    Scaffold,
    ServerOpt,
    Stage,
    Star,
    WeightedMean,
)
from hubless.learn.attacks import hostile
from hubless.learn.slots import Reduce
from hubless.net.topologies import Full, Ring
from hubless.parts import make

HOSTILE = "1+4"
ATTACKS = [
    f"label-flip:{HOSTILE}", f"label-flip:{HOSTILE}:0-2", f"sign-flip:{HOSTILE}:2", f"scaling:{HOSTILE}:3",
    f"noise:{HOSTILE}:0.1", f"noise:{HOSTILE}:0.1:true", f"alie:{HOSTILE}:1.5", f"alie:{HOSTILE}", f"ipm:{HOSTILE}:0.5",
    f"model-replacement:{HOSTILE}:3:label-flip:0-1", f"free-rider:{HOSTILE}", f"free-rider:{HOSTILE}:0.01",
    f"replay:{HOSTILE}:2", f"sybil:{HOSTILE}:label-flip", f"sybil:{HOSTILE}:alie:1", f"sybil:{HOSTILE}:replay:1",
]  # fmt: skip
ONE_BY_ONE = [attack for attack in ATTACKS if "sybil" not in attack]  # Sybils always keep rows
LOCAL = SGD(lr=0.2, steps=2, batch=8)


@dataclass(frozen=True)
class KeptStar(Star):
    """A star whose peers each keep a row: what streaming must equal."""

    shared: ClassVar[bool] = False


class Watcher(Hook):
    """Wants to see every message, so that each is made."""

    needs_messages: ClassVar[bool] = True


class Rounded(Stage):
    """Loses what lies beyond two digits."""

    def forward(self, m, s, ctx):
        return {name: (value * 100).round() / 100 for name, value in m.items()}, s


@dataclass(frozen=True)
class Partly(Merge):
    """Odd peers say only one of their two groups."""

    reduce: Reduce = field(default_factory=Median)

    vectorised: ClassVar[bool] = False

    def message(self, w, s, book, ctx):
        said = super().message(w, s, book, ctx)
        return {"head": said["head"]} if ctx.peer % 2 else said


@dataclass(frozen=True)
class Addressed(Merge):
    """A message for each receiver."""

    reduce: Reduce = field(default_factory=WeightedMean)

    per_target: ClassVar[bool] = True
    vectorised: ClassVar[bool] = False

    def message(self, w, s, book, ctx):
        return {name: value + 0.001 * ctx.to for name, value in super().message(w, s, book, ctx).items()}


METHODS = {
    "mean": (WeightedMean(), Codec()),
    "rounded mean": (WeightedMean(), Codec((Rounded(),))),
    "rounded median": (Median(), Codec((Rounded(),))),
    "adam": (ServerOpt(rule="adam", lr=0.05), Codec()),
}


@pytest.mark.parametrize("attack", ONE_BY_ONE)
@pytest.mark.parametrize("method", METHODS)
def test_streaming_equals_keeping_rows(attack, method):
    merge, codec = METHODS[method]
    given = dict(
        attack=attack, merge=merge, codec=codec, local=LOCAL, rounds=4, workload=workload(6, "dirichlet:0.5"),
        setting={"faults": "loss:0.2,crash:peer=4@3-3"},
    )  # fmt: skip
    close(rows(build(overlay=Star(), **given)), rows(build(overlay=KeptStar(), **given))[:1])


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("merge", [WeightedMean(), Median()], ids=["mean", "median"])
def test_whole_rows_equal_messages_one_by_one(attack, merge):
    given = dict(
        attack=attack, merge=merge, overlay=Gossip(Ring(), 2), local=LOCAL, kernel="loop",
        workload=workload(6, model=BATCHNORM),
    )  # fmt: skip
    close(rows(build(**given)), rows(build(**given, hooks=(Watcher(),))))


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_run_that_goes_on_gives_the_records_of_one_never_stopped(attack):
    given = dict(attack=attack, overlay=Gossip(Full()), rounds=5, workload=workload(6, "dirichlet:0.5"))
    whole = [record.line() for record in build(**given).records()]
    run, seen = build(**given), []
    for record in run.records():
        seen.append(record.line())
        if record.kind == "round" and record.round == 3:
            break
    assert [*seen, *(record.line() for record in build(**given).records(run.snapshot()))] == whole


PLACES = {
    "rotating deltas": dict(overlay=Rotating(4), merge=ServerOpt(Median())),
    "scaffold": dict(overlay=Star(4), merge=Scaffold(), local=SGD(0.2, steps=2, batch=8, gradient=ControlVariate())),
    "names that differ": dict(merge=Partly(), workload=workload(6, model=GROUPS)),
    "for each receiver": dict(merge=Addressed()),
    "some groups": dict(merge=Merge(Median(), ("head",)), workload=workload(6, model=GROUPS)),
    "statistics": dict(overlay=Star(), workload=workload(6, model=BATCHNORM), kernel="loop"),
    "hostile aggregator": dict(overlay=Star(4), attack="0+2"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", PLACES)
def test_it_runs_with_finite_numbers_and_the_same_twice(attack, place):
    given = {"workload": workload(6), "local": LOCAL, "rounds": 2, **PLACES[place]}
    given["attack"] = attack.replace(HOSTILE, given.get("attack", HOSTILE))
    records = list(build(**given).records())
    assert [record.line() for record in records] == [record.line() for record in build(**given).records()]
    for record in records:
        assert all(math.isfinite(value) for value in record.metrics.values())
        assert "rejected" not in record.metrics  # lies are well-formed


def test_predictions_of_other_models_are_attacked_too():
    narrow = Model(lambda: network((5,), 3), name="other")
    models = [(PLAIN, (0, 1, 2)), (narrow, (3, 4, 5))]
    given = dict(merge=Distil(public=torch.ones(4, 5)), models=models, workload=workload(6), overlay=Gossip(Full()))
    clean = rows(build(**given))
    for attack in ("sign-flip", "scaling", "noise", "alie", "ipm", "replay"):
        values = ":1" if attack in ("alie", "replay") else ""
        assert not torch.equal(rows(build(attack=f"{attack}:1+4{values}", **given)), clean), attack


def test_what_attackers_send_changes_what_honest_peers_learn():
    given = dict(overlay=Gossip(Full()), rounds=3, workload=workload(6))
    clean = rows(build(**given))
    for attack in ATTACKS:
        if attack in (f"alie:{HOSTILE}", f"free-rider:{HOSTILE}"):
            continue
        attacked = rows(build(attack=attack, **given))
        assert float((attacked - clean)[[0, 2, 3, 5]].abs().max()) > 1e-4, attack


def test_the_default_share_of_twenty_per_cent_spares_peer_0():
    for name in ("alie", "ipm", "label-flip", "noise", "replay", "scaling", "sybil", "free-rider", "model-replacement"):
        ids = hostile(make("attack", name), 10, SEED)
        assert len(ids) == 2
        assert 0 not in ids
        run = build(attack=name, workload=workload(10))
        assert sorted(run.attack.peers) == sorted(run.hostile) == ids


def test_everyone_else_starts_alike():
    """A hostile peer's message is all that differs: with no round behind it, an attack has changed nothing."""
    honest, attacked = (build(attack=attack, rounds=1, overlay=Gossip(Ring())) for attack in (None, "noise:1:1"))
    one, other = finish(honest)["cohort.0/rows"], finish(attacked)["cohort.0/rows"]
    close(one[[1, 3, 4]], other[[1, 3, 4]])  # peers 0 and 2 are neighbours of 1, which is not fooled itself
    assert not torch.equal(one[[0, 2]], other[[0, 2]])
