"""A run that goes on from a checkpoint writes the records of one that was never stopped, bit for bit."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from small import BATCHNORM, BLOBS, DROPOUT, build, network, workload

from hubless.errors import CheckpointError
from hubless.learn import (
    SGD,
    Adam,
    Codec,
    ControlVariate,
    Distil,
    Gossip,
    Hook,
    Median,
    Model,
    Rotating,
    Scaffold,
    ServerOpt,
    Stage,
    Star,
    WeightedMean,
)
from hubless.learn.attacks import SignFlip
from hubless.net.topologies import Full, Ring
from hubless.parts import make
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity

FAULTS = {"faults": "crash:aggregator@3,crash:peer=2@2-2,loss:0.2"}
MOMENTUM = SGD(lr=0.1, steps=2, batch=8, momentum=0.9, keep=True)
VARIATE = SGD(lr=0.1, steps=2, batch=8, gradient=ControlVariate())


class Feedback(Stage):
    """Rounds to halves, and adds next time what it took away."""

    def init(self, model):
        return {"feedback": torch.zeros(model.size)}

    def forward(self, m, s, ctx):
        wanted = m["w"] + s["feedback"]
        said = (wanted * 20).round() / 20
        return {"w": said}, {**s, "feedback": wanted - said}


class Counter(Hook):
    """Remembers rounds."""

    needs_messages: ClassVar[bool] = True

    def __init__(self):
        self.count = 0

    def judge(self, exchange, messages, population):
        self.count += 1

    def round(self, view):
        return {"judged": float(self.count)}

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


@dataclass(frozen=True)
class Remembering(Gossip):
    """An overlay with tensors, numbers and nested entries in its book."""

    reports: ClassVar[tuple[str, ...]] = ("momentum",)

    def init(self, world):
        return {"seen": torch.zeros(world.n), "rounds": 0, "of": {"peer": {3: [1, 2]}}}

    def plan(self, t, world, book):
        book["rounds"] += 1
        return super().plan(t, world, book)

    def observe(self, t, plan, reports, book):
        book["seen"] = book["seen"] + torch.stack([reports["momentum"][i].norm() for i in range(len(book["seen"]))])


def wide():
    return network((5,), 3)


def narrow():
    return torch.nn.Linear(5, 3)


WIDE, NARROW = Model(wide, name="wide"), Model(narrow, name="narrow")
PUBLIC = torch.from_numpy(BLOBS.test_x[:6])

RUNS = {
    "gossip": dict(),
    "momentum": dict(local=MOMENTUM),
    "small world": dict(overlay=Gossip(make("topology", "random-regular:2")), local=Adam(lr=0.01, steps=2, keep=True)),
    "batchnorm": dict(workload=workload(6, "dirichlet:0.5", BATCHNORM)),
    "dropout": dict(workload=workload(6, model=DROPOUT)),
    "hostile median": dict(overlay=Gossip(Full()), merge=Median(), attack=SignFlip((1,))),
    "star": dict(overlay=Star(3)),
    "rotating adam": dict(overlay=Rotating(), merge=ServerOpt(rule="adam", lr=0.05)),
    "rotating batchnorm": dict(overlay=Rotating(4), workload=workload(6, model=BATCHNORM)),
    "scaffold": dict(overlay=Rotating(4), local=VARIATE, merge=Scaffold()),
    "feedback": dict(codec=Codec((Feedback(),))),
    "streamed feedback": dict(overlay=Star(), codec=Codec((Feedback(),))),
    "cohorts": dict(merge=Distil(public=PUBLIC), models=[(WIDE, (0, 2, 4)), (NARROW, (1, 3, 5))]),
    "bandit": dict(overlay=Remembering(Ring()), local=MOMENTUM),
}


def lines(records):
    return [record.line() for record in records]


@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["fair", "faults"])
@pytest.mark.parametrize("kind", RUNS)
def test_resuming_is_bit_for_bit(kind, faults, tmp_path):
    given = dict(rounds=5, workload=workload(6, "dirichlet:0.5"), setting={**faults, "nonfinite": "drop"}) | RUNS[kind]
    whole = lines(build(**given, hooks=(Counter(),)).records())
    for stop in (1, 3):
        short, seen = build(**given, hooks=(Counter(),)), []
        for record in short.records():
            seen.append(record)
            if record.kind == "round" and record.round == stop:
                checkpoint.save(tmp_path, short.snapshot(), Identity("toy", "1", "x"))
                break
        again = build(**given, hooks=(Counter(),))
        rest = again.records(checkpoint.load(tmp_path, Identity("toy", "1", "x")))
        assert lines([*seen, *rest]) == whole


def test_a_snapshot_in_memory_survives_going_on():
    """Books and plans of the snapshot are its own, so that it may be resumed twice."""
    given = dict(rounds=4, overlay=Rotating(), merge=ServerOpt(rule="adam", lr=0.05))
    run = build(**given)
    records = run.records()
    for record in records:
        if record.kind == "round" and record.round == 2:
            break
    snapshot = run.snapshot()
    snapshot = replace(snapshot, tensors={name: value.clone() for name, value in snapshot.tensors.items()})
    rest = lines(records)
    assert lines(build(**given).records(snapshot)) == rest
    assert lines(build(**given).records(snapshot)) == rest


def test_running_twice_gives_the_same_records():
    run = build(**RUNS["bandit"], workload=workload(6), setting=FAULTS)
    assert lines(run.records()) == lines(run.records())


def test_a_checkpoint_of_another_shape_is_refused():
    run = build()
    list(run.records())
    other = build(workload=workload(7))
    with pytest.raises(CheckpointError, match=r"checkpoint: cohort\.0/rows is \(5, 75\), this run has \(7, 75\)"):
        next(other.records(run.snapshot()))
    kept = run.snapshot()
    kept.tensors["cohort.0/state/momentum"] = kept.tensors.pop("cohort.0/rows")
    said = r"checkpoint: cohort\.0/rows is missing; cohort\.0/state/momentum is unexpected"
    with pytest.raises(CheckpointError, match=said):
        next(build().records(kept))
    with pytest.raises(CheckpointError, match="the run has not begun"):
        build().snapshot()


def test_weights_are_one_set_a_cohort():
    run = build(workload=workload(6), **RUNS["cohorts"])
    list(run.records())
    named = run.model()
    assert {name.split("/")[0] for name in named} == {"cohort.0", "cohort.1"}
    assert named["cohort.1/weight"].shape == (3, 5)
    run = build(overlay=Star(), merge=WeightedMean())
    list(run.records())
    assert set(run.model()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
