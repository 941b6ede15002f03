"""Every fast path against the slow one: row sums, stacked inboxes, chunks, threads, memory."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small import BATCHNORM, DROPOUT, GROUPS, PLAIN, build, close, finish, metrics, rows, workload

from hubless.learn import (
    SAM,
    SGD,
    Adam,
    Alone,
    Codec,
    Gossip,
    Hook,
    Median,
    Merge,
    Reduce,
    Stage,
    Star,
    TrimmedMean,
    WeightedMean,
)
from hubless.learn.attacks import SignFlip
from hubless.learn.rows import Sums
from hubless.learn.training import Workers
from hubless.net.topologies import Full, Ring
from hubless.parts import make


class Nothing(Stage):
    """A stage that changes nothing: messages must be made, packed and unpacked."""


class Watcher(Hook):
    """A judge that finds everyone guilty of nothing."""

    needs_messages: ClassVar[bool] = True

    def __init__(self, factor=1.0):
        self.factor = factor
        self.seen = set()

    def judge(self, exchange, messages, population):
        self.seen |= set(messages)
        return dict.fromkeys(messages, self.factor)


@dataclass(frozen=True)
class Looped(Reduce):
    """A reduce that works on one inbox at a time."""

    inner: Reduce

    vectorised: ClassVar[bool] = False

    def __call__(self, inbox, w, s, book, ctx):
        book["asked"] = book.get("asked", 0) + 1
        assert ctx.peer == inbox.ids[list(inbox.ids).index(ctx.peer)]
        assert len(ctx.data.x) == int(ctx.n)
        return self.inner(inbox, w, s, book, ctx)


LONG = {"faults": "crash:peer=4@2,loss:0.2"}
MERGES = [WeightedMean(), Median(), TrimmedMean(0.3)]
MODELS = {"plain": PLAIN, "batchnorm": BATCHNORM, "groups": GROUPS}


@pytest.mark.parametrize("attack", [None, SignFlip((1, 4), scale=3.0)], ids=["honest", "hostile"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("merge", MERGES, ids=lambda merge: type(merge).__name__)
@pytest.mark.parametrize("topology", ["ring", "small-world:4:0.3", "full"])
def test_whole_rows_equal_messages(merge, model, attack, topology):
    given = dict(
        workload=workload(8, "dirichlet:0.5", MODELS[model]), overlay=Gossip(make("topology", topology), steps=2),
        merge=merge, attack=attack, setting=LONG,
    )  # fmt: skip
    fast, coded, judged = (
        build(**given, **more) for more in ({}, {"codec": Codec((Nothing(),))}, {"hooks": (Watcher(),)})
    )
    ours = finish(fast)
    for slow in (coded, judged):
        theirs = finish(slow)
        for name, value in ours.items():
            close(value.double(), theirs[name].double(), within=2e-5 if name != "meter/sent" else 0)
    assert fast.snapshot().meta["meter"] == judged.snapshot().meta["meter"]


@pytest.mark.parametrize("share", [("head",), ("trunk",), ("trunk", "head")])
@pytest.mark.parametrize("overlay", [Gossip(Ring()), Star()])
def test_what_is_not_shared_stays_at_home(share, overlay):
    given = dict(workload=workload(5, model=GROUPS), overlay=overlay, merge=Merge(WeightedMean(), share), rounds=2)
    fast, slow = build(**given), build(**given, codec=Codec((Nothing(),)))
    one = rows(fast)
    close(one, rows(slow))
    for name, part in GROUPS.groups.items():
        spread = float((one[:, part] - one[:, part].mean(0)).abs().max())
        if type(overlay) is Star and name in share:
            continue  # peers are at the end of their own training, the aggregator at the mean
        assert spread > 1e-3, f"{name}: peers are alike"
    whole = metrics(build(**{**given, "merge": WeightedMean()}))
    parts = len(share) / 2
    assert (metrics(fast)[-1]["bytes"] < whole[-1]["bytes"]) == (parts < 1)


def test_a_reduce_of_one_inbox_at_a_time_gets_ids_and_data():
    given = dict(workload=workload(6, "dirichlet:0.5"))
    run = build(**given, merge=Looped(Median()))
    close(rows(run), rows(build(**given, merge=Median())))
    coded = build(**given, merge=Looped(Median()), codec=Codec((Nothing(),)))
    close(rows(coded), rows(run))
    assert run.snapshot().meta["population"]["book"]["i5\x1fsasked"] == 3


def test_judges_see_everyone_and_their_factors_are_weights():
    watcher = Watcher(0.5)
    close(rows(build(hooks=(watcher,))), rows(build()))
    assert watcher.seen == set(range(5))
    one = build(hooks=(Watcher(0.0),))
    close(rows(one), rows(build(overlay=Alone())), within=0)


LOCALS = {
    "fused": SGD(lr=0.2, steps=3, batch=8),
    "epochs": SGD(lr=0.2, epochs=2, batch=8),
    "momentum": SGD(lr=0.1, epochs=1, batch=8, momentum=0.9, keep=True),
    "sam": SGD(lr=0.1, epochs=1, batch=8, gradient=SAM(0.1)),
    "adam": Adam(lr=0.01, epochs=1, batch=8, keep=True),
    "everything": SGD(lr=0.2, steps=2, batch=0),
}


@pytest.mark.parametrize("model", [PLAIN, DROPOUT, BATCHNORM], ids=lambda model: model.name)
@pytest.mark.parametrize("local", LOCALS)
def test_neither_chunks_nor_threads_change_the_numbers(local, model):
    """Unequal data, so that chunks differ in padding."""
    given = dict(workload=workload(7, "dirichlet:0.3", model), local=LOCALS[local], rounds=2)
    for overlay in (Gossip(Ring()), Star()):
        usual = finish(build(**given, overlay=overlay))
        for setting in ({"memory": 1e-6}, {"threads": 2}, {"threads": 2, "memory": 1e-6}):
            other = finish(build(**given, overlay=overlay, setting=setting))
            for name, value in usual.items():
                close(value.double(), other[name].double(), within=2e-6)


def test_tiny_memory_does_make_chunks_of_one():
    run = build(setting={"memory": 1e-6})
    list(run.records())
    job = run._state.wiring.jobs("train", 1, 0, run.models[0][0], False)
    assert [len(chunk) for chunk in job.chunks(torch.arange(5), 1)] == [1] * 5


@pytest.mark.parametrize("kernel", ["loop", "graph"])
def test_kernels_are_a_choice_of_speed_only(kernel):
    close(rows(build(kernel=kernel)), rows(build()))


@dataclass(frozen=True)
class OneByOne(SGD):
    """SGD that refuses to be mapped."""

    vectorised: ClassVar[bool] = False  # type: ignore[misc]

    @property
    def fusable(self):
        return False


@pytest.mark.parametrize("model", [PLAIN, BATCHNORM], ids=lambda model: model.name)
def test_looped_training_equals_fused(model):
    given = dict(workload=workload(6, "dirichlet:0.3", model))
    for local in (dict(lr=0.2, steps=3, batch=8), dict(lr=0.2, epochs=2, batch=8)):
        fused, looped = (finish(build(**given, local=kind(**local))) for kind in (SGD, OneByOne))
        for name, value in fused.items():
            close(value.double(), looped[name].double())
        one, other = (metrics(build(**given, local=kind(**local)))[-2]["train_loss"] for kind in (SGD, OneByOne))
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_sums_normalise_over_what_arrived_and_leave_the_others_alone(dense):
    n, d = 5, 7
    values = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    sent = values + 1
    src, dst = torch.tensor([0, 1, 2, 4, 1, 3]), torch.tensor([1, 1, 1, 2, 3, 3])
    weight = torch.tensor([1.0, 2.0, 1.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    out = torch.full((n, d), torch.nan)
    sums = Sums(n, src, dst, weight)
    workers = Workers(1)
    if dense:
        sums._product(out, values, sent)
        out[[0, 2, 4]] = values[[0, 2, 4]]
    else:
        sums.into(out, values, workers, sent)
    wanted = values.clone()
    wanted[1] = (sent[0] + 2 * values[1] + sent[2]) / 4
    wanted[3] = (3 * sent[1] + values[3]) / 4
    close(out, wanted, within=1e-6)


def test_a_full_graph_by_matrix_equals_a_full_graph_by_sums(monkeypatch):
    given = dict(workload=workload(8), overlay=Gossip(Full()))
    one = rows(build(**given))
    monkeypatch.setattr("hubless.learn.rows.DENSE", 2.0)
    close(rows(build(**given)), one)


def test_plans_are_not_shared_between_populations():
    """One overlay object, two partitions: weights by data size must be those of each."""
    overlay, fresh = (Gossip(Ring(), weights="data-size") for _ in range(2))
    rows(build(overlay=overlay))
    work = workload(5, "dirichlet:0.3")
    close(rows(build(overlay=overlay, workload=work)), rows(build(overlay=fresh, workload=work)), within=0)
