"""Robust merges in the engine: every path gives the same numbers, roles move, runs resume, and accuracy is kept."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small import BATCHNORM, GROUPS, PLAIN, build, close, finish, metrics, rows, workload

from hubless.errors import ConfigError
from hubless.learn import SGD, Codec, Distil, Gossip, Hook, Learning, Merge, Rotating, ServerOpt, Stage, Star, Workload
from hubless.learn.attacks import SignFlip
from hubless.learn.merges import (
    CentredClip,
    ClippedGossip,
    Flame,
    FoolsGold,
    GeometricMedian,
    Krum,
    MultiKrum,
    NormClip,
)
from hubless.parts import make
from hubless.run.setting import Setting

EVERY = [
    Krum(), MultiKrum(), GeometricMedian(), NormClip(), CentredClip(0.3, 2), ClippedGossip(), ClippedGossip(0.3),
    FoolsGold(), Flame(0.0), Flame(0.01),
]  # fmt: skip
HARD = "crash:peer=4@2,loss:0.2"
MODELS = {"plain": PLAIN, "batchnorm": BATCHNORM, "groups": GROUPS}
every = pytest.mark.parametrize("reduce", EVERY, ids=str)


class Nothing(Stage):
    """A stage that changes nothing: messages must be made, packed and unpacked."""


class Judge(Hook):
    """Wants to see every message, and finds nobody guilty."""

    needs_messages: ClassVar[bool] = True

    def judge(self, exchange, messages, population):
        return {}


@dataclass(frozen=True)
class KeptStar(Star):
    """A star whose peers each keep a row."""

    shared: ClassVar[bool] = False


@every
@pytest.mark.parametrize(("model", "topology"), [("plain", "ring"), ("batchnorm", "full"), ("groups", "full")])
def test_whole_rows_equal_messages_one_at_a_time(reduce, model, topology):
    given = dict(
        workload=workload(7, "dirichlet:0.5", MODELS[model]), overlay=Gossip(topology, steps=2), merge=reduce,
        attack=SignFlip((1, 4), scale=3.0), setting={"faults": HARD}, rounds=2,
    )  # fmt: skip
    ours = finish(build(**given))
    for slow in ({"codec": Codec((Nothing(),))}, {"hooks": (Judge(),)}):
        theirs = finish(build(**given, **slow))
        assert set(theirs) == set(ours)
        for name, value in ours.items():
            close(value.double(), theirs[name].double(), within=2e-5 if name != "meter/sent" else 0)


@every
@pytest.mark.parametrize("deltas", [False, True], ids=["models", "updates"])
@pytest.mark.parametrize("model", ["batchnorm", "groups"])
def test_streaming_equals_keeping_every_row(reduce, deltas, model):
    merge = ServerOpt(reduce, rule="adam", lr=0.05) if deltas else reduce
    given = dict(
        workload=workload(7, "dirichlet:0.5", MODELS[model]), merge=merge, attack=SignFlip((1, 4), scale=3.0),
        setting={"faults": HARD}, rounds=3,
    )  # fmt: skip
    streamed, kept, coded = (
        finish(build(overlay=overlay, **given, **more))
        for overlay, more in ((Star(), {}), (KeptStar(), {}), (KeptStar(), {"codec": Codec((Nothing(),))}))
    )
    for name in ("rows", *(f"state/{name}" for name in MODELS[model].buffers if "num" not in name)):
        name = f"cohort.0/{name}"
        close(kept[name][:1], streamed[name])
        close(coded[name][:1], streamed[name])


@pytest.mark.parametrize("reduce", [one for one in EVERY if one not in (ClippedGossip(), Flame(0.01))], ids=str)
@pytest.mark.parametrize("deltas", [False, True], ids=["models", "updates"])
def test_a_role_that_moves_takes_its_memory_along(reduce, deltas):
    """Clipped gossip looks at the aggregator's own message, and FLAME's noise is the aggregator's own."""
    if isinstance(reduce, ClippedGossip):
        return
    merge = ServerOpt(reduce, rule="momentum", lr=0.5) if deltas else reduce
    given = dict(workload=workload(7), merge=merge, attack=SignFlip((1, 4), scale=3.0), rounds=4)
    moving = build(overlay=Rotating(), **given)
    close(rows(moving), rows(build(overlay=Star(), **given)))
    snapshot = moving.snapshot()
    for role in reduce.role if deltas or isinstance(reduce, FoolsGold) else ():
        kept = {name.split("\x1f")[0] for name in snapshot.tensors if f"\x1fs{role}\x1f" in name}
        assert kept == {f"book/i{holder}" for holder in snapshot.meta["overlay"]["sholders"]}


@pytest.mark.parametrize("reduce", [FoolsGold(), CentredClip(0.3), Flame(0.01)], ids=str)
@pytest.mark.parametrize("overlay", [Gossip("full"), Rotating()], ids=lambda one: type(one).__name__)
def test_memory_survives_a_checkpoint(reduce, overlay):
    merge = reduce if isinstance(overlay, Gossip) else ServerOpt(reduce)
    given = dict(workload=workload(6, model=GROUPS), overlay=overlay, merge=merge, rounds=4)
    run = build(**given)
    records = run.records()
    for record in records:
        if record.kind == "round" and record.round == 2:
            break
    snapshot = run.snapshot()
    kept = type(snapshot)(2, {name: value.clone() for name, value in snapshot.tensors.items()}, snapshot.meta)
    rest = [record.line() for record in records]
    assert [record.line() for record in build(**given).records(kept)] == rest


def test_an_inbox_that_can_never_be_large_enough_is_refused_before_work():
    for overlay, size in ((Gossip("ring"), 3), (Star(4), 4), (Rotating(4), 4)):
        with pytest.raises(ConfigError, match=rf"merge\.f = 1: .* one has {size}"):
            build(overlay=overlay, merge=Krum(1), workload=workload(6))
    build(overlay=Gossip("full"), merge=Krum(1))
    with pytest.raises(ConfigError, match=r"merge\.f = 1: "):
        build(overlay=Star(4), merge=ServerOpt(MultiKrum(1), rule="adam"), workload=workload(6))


@pytest.mark.parametrize("reduce", [Krum(2), MultiKrum(2, 5), ClippedGossip(f=5)], ids=str)
def test_losses_leave_inboxes_of_any_size_and_the_run_goes_on(reduce):
    given = dict(workload=workload(7), merge=reduce, setting={"faults": "loss:0.7,crash:50%@2"}, rounds=4)
    for overlay in (Gossip("full"), KeptStar(), Star()):
        assert torch.isfinite(rows(build(overlay=overlay, **given))).all()


@every
def test_predictions_can_be_reduced(reduce):
    merge = Distil(reduce, public=torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(rows(build(overlay=Gossip("full"), merge=merge, workload=workload(5)))).all()


@every
def test_a_share_of_the_groups_is_reduced_alone(reduce):
    given = dict(workload=workload(5, model=GROUPS), overlay=Gossip("full"), rounds=2)
    run = build(**given, merge=Merge(reduce, ("trunk",)))
    trunk, head = (rows(run)[:, GROUPS.groups[name]] for name in ("trunk", "head"))
    assert float((head - head.mean(0)).abs().max()) > 1e-3
    assert torch.isfinite(trunk).all()
    close(torch.cat([trunk, head], 1), rows(build(**given, merge=Merge(reduce, ("trunk",)), hooks=(Judge(),))))


DIGITS = make("data", "digits")
SMALL = make("model", "mlp:16")
KEPT = {
    "median": 0.4, "trimmed-mean:0.3": 0.35, "krum": 0.6, "multi-krum": 0.75, "geometric-median": 0.5,
    "centred-clip": 0.4, "clipped-gossip": 0.4, "flame": 0.7,
}  # fmt: skip


def accuracy(merge, attack, overlay="gossip"):
    """Of honest peers on digits, after 8 rounds; 3 of 10 peers are hostile."""
    made = make("merge", merge)
    learning = Learning(
        Workload(DIGITS, "iid", 10, SMALL, 600), SGD(lr=0.3, steps=5, batch=16),
        Gossip("full") if overlay == "gossip" else Star(weigh="one"),
        made if overlay == "gossip" else ServerOpt(made.reduce), attack=make("attack", attack), rounds=8,
    )  # fmt: skip
    run = learning.under(Setting(seed=1, threads=1, evaluate=100))
    return metrics(run)[-1]["accuracy"]


@pytest.mark.parametrize("attack", ["sign-flip:1+4+7:5", "alie:1+4+7:20"])
@pytest.mark.parametrize("overlay", ["gossip", "star"])
def test_robust_merges_keep_accuracy_where_the_mean_fails(attack, overlay):
    assert accuracy("mean", attack, overlay) < 0.25
    merges = [merge for merge in KEPT if overlay == "gossip" or merge != "clipped-gossip"]
    found = {merge: accuracy(merge, attack, overlay) for merge in merges}
    assert {merge: value for merge, value in found.items() if value < KEPT[merge]} == {}


def test_foolsgold_shuts_out_identities_of_one_attacker():
    lost, kept = (accuracy(merge, "ipm:1+4+7:5", "star") for merge in ("mean", "foolsgold"))
    assert lost < 0.25
    assert kept > 0.7
