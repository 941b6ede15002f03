"""Inboxes that are summed: a run with secure sums is the run without, and closes what must stay closed."""

import re
from dataclasses import dataclass

import pytest
import torch
from small import BATCHNORM, GROUPS, PLAIN, build, finish, first_row, metrics, workload
from torch import nn

from hubless.errors import ConfigError
from hubless.learn import (
    SGD,
    Attack,
    Codec,
    ControlVariate,
    Gossip,
    Median,
    Merge,
    Model,
    Raw,
    Rotating,
    Scaffold,
    Scheduled,
    ServerOpt,
    Star,
    WeightedMean,
)
from hubless.learn.privacy.rqm import RQM
from hubless.learn.sampled import Sampled
from hubless.learn.secure import FixedPoint, SecureSum
from hubless.net.topologies import Full, Ring
from hubless.parts import make
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity

LOSS = {"faults": "loss:0.2"}
CRASH = {"faults": "crash:peer=2@1"}
FAULTS = {"faults": "loss:0.1,crash:peer=2@2-3,leave:peer=3@1-1,join:peer=4@2"}
VARIATE = SGD(lr=0.1, steps=2, batch=8, gradient=ControlVariate())
LOW = "secure-sum:0.1"  # two senders are enough
SUMMED = {
    "star": dict(overlay=Star(weigh="one")),
    "star of some": dict(overlay=Star(5, weigh="one"), merge=ServerOpt(rule="adam", lr=0.05)),
    "rotating": dict(overlay=Rotating(weigh="one")),
    "scaffold": dict(overlay=Rotating(weigh="one"), merge=Scaffold(), local=VARIATE),
    "ring": dict(),
    "full": dict(overlay=Gossip(Full())),
    "twice": dict(overlay=Gossip(make("topology", "random-regular:4"), steps=2)),
    "regular": dict(overlay=Gossip(make("topology", "random-regular:4"))),
    "unequal degrees": dict(overlay=Gossip(make("topology", "grid"), weights="uniform")),
    "sampled": dict(overlay=Sampled(sample=6)),
    "scheduled": dict(overlay=Scheduled(((1, Gossip(Full())), (2, Gossip(Ring()))))),
    "share": dict(merge=Merge(WeightedMean(), ("trunk",)), workload=workload(8, model=GROUPS)),
    "batchnorm": dict(overlay=Gossip(Full()), workload=workload(8, model=BATCHNORM)),
    "batchnorm star": dict(overlay=Star(weigh="one"), workload=workload(8, model=BATCHNORM)),
}  # fmt: skip


def experiment(name, **given):
    return build(**{"workload": workload(8), "rounds": 2, **SUMMED[name], **given})


def texts(run):
    """Events of a run."""
    return [record.data["text"] for record in run.records() if record.kind == "event"]


def rounds(run):
    """Metrics of its rounds."""
    return [record.metrics for record in run.records() if record.kind == "round"]


def nearest(tensors, others):
    """How far the rows that count are apart; where one run stores one model, some peer of the other has it."""
    one, other = tensors["cohort.0/rows"], others["cohort.0/rows"]
    if len(one) == len(other):
        return float((one - other).abs().max())
    return float((one - other).abs().amax(1).min())


@pytest.mark.parametrize("name", SUMMED)
def test_a_run_with_secure_sums_is_the_run_without(name):
    plain, hidden = finish(experiment(name)), finish(experiment(name, codec="secure-sum"))
    assert nearest(plain, hidden) < 1e-5
    for entry in (entry for entry in plain if "/state/buffer" in entry and name == "batchnorm"):
        assert float((plain[entry] - hidden[entry]).abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["star", "batchnorm", "sampled"])
def test_a_few_neighbours_are_as_good_as_all(name):
    plain, hidden = finish(experiment(name)), finish(experiment(name, codec="secure-sum:neighbours=4"))
    assert nearest(plain, hidden) < 1e-5


@pytest.mark.parametrize("setting", [LOSS, FAULTS], ids=["loss", "faults"])
@pytest.mark.parametrize("name", ["star", "star of some", "rotating", "full", "batchnorm", "batchnorm star", "sampled"])
def test_it_is_under_losses_and_crashes(name, setting):
    plain = finish(experiment(name, setting=setting))
    run = experiment(name, codec=LOW, setting=setting)
    assert not [text for text in texts(run) if "closed" in text]
    assert nearest(plain, run.snapshot().tensors) < 1e-5


def test_a_quantiser_with_and_without_secure_sums_says_the_same():
    """Integers are summed exactly, so only float32 differs."""
    rqm = Codec((RQM(16, 0.1, 0.1, 0.42),))
    given = dict(overlay=Star(weigh="one"), merge=ServerOpt(), workload=workload(8), setting=LOSS)
    plain = finish(build(codec=rqm, **given))
    hidden = finish(build(codec=Codec((*rqm.stages, SecureSum(threshold=0.1, bits=7))), **given))
    assert nearest(plain, hidden) < 1e-6
    named = finish(build(codec="rqm:0.1", **given)), finish(build(codec="rqm:0.1+secure-sum:0.1:bits=7", **given))
    assert nearest(*named) < 1e-6


def test_inboxes_with_too_few_senders_stay_closed():
    """On a ring two senders make a sum; where one is gone the peer keeps its own model, and training goes on."""
    run = build(codec="secure-sum", overlay=Gossip(Ring()), setting={"faults": "crash:peer=2@1"})
    few = "inboxes in 'gossip' that stayed closed: 2; that of peer 1: secure sum: 1 of 2 senders arrived, 2 are needed"
    assert texts(run).count(few) == 3
    rows = run.snapshot().tensors["cohort.0/rows"]
    alone = finish(build(overlay=Gossip(Ring()), setting={"faults": "crash:peer=0+2+4@1"}))["cohort.0/rows"]
    assert torch.equal(rows[1], alone[1])
    assert not torch.equal(rows[0], alone[0])
    assert rounds(run)[-1]["rejected"] == 6


@pytest.mark.parametrize("merge", [WeightedMean(), ServerOpt(rule="adam", lr=0.05)], ids=["mean", "adam"])
def test_an_aggregator_whose_inbox_stays_closed_keeps_the_model_that_it_sent_out(merge):
    run = build(codec="secure-sum:0.9", overlay=Star(weigh="one"), merge=merge, setting=CRASH)
    assert len([text for text in texts(run) if "4 of 5 senders arrived, 5 are needed" in text]) == 3
    rows = run.snapshot().tensors["cohort.0/rows"]
    assert torch.equal(rows[0], first_row(PLAIN))
    assert not torch.equal(rows[1], rows[0])


@dataclass(frozen=True)
class Crooked(Attack):
    """Sends messages of another shape."""

    def message(self, m, honest, book, ctx):
        return {name: value[:-1] for name, value in m.items()}


@dataclass(frozen=True)
class Loud(Attack):
    """Sends numbers beyond all bounds."""

    def message(self, m, honest, book, ctx):
        return {name: value * torch.inf for name, value in m.items()}


@pytest.mark.parametrize("overlay", [Star(weigh="one"), Gossip(Full())], ids=["star", "full"])
def test_messages_of_another_shape_are_refused_and_the_others_summed(overlay):
    given = dict(overlay=overlay, workload=workload(8), attack=Crooked((1, 4)))
    plain, run = finish(build(**given)), build(**given, codec="secure-sum")
    told = texts(run)
    assert any("peer 4 refused: it has other names or shapes than those of most" in text for text in told)
    assert nearest(plain, run.snapshot().tensors) < 1e-5
    assert rounds(run)[-1]["rejected"] == 3 * (2 if overlay.shared else 8 * 2 - 2)


def test_a_loud_sender_bends_a_sum_by_its_range_and_no_more():
    """The sum hides who said what: it is inherent, and bounded by the range of fixed-point numbers."""
    given = dict(overlay=Gossip(Full()), workload=workload(8), rounds=1)
    honest = finish(build(**given))["cohort.0/rows"]
    bent = finish(build(**given, attack=Loud((1,)), codec="secure-sum:range=8"))["cohort.0/rows"]
    assert 0 < float((honest[0] - bent[0]).abs().max()) <= (8 + 2) / 8


def test_numbers_that_cannot_be_coded_are_dropped():
    given = dict(overlay=Star(weigh="one"), merge=ServerOpt(), workload=workload(8), attack=Loud((1,)), rounds=2)
    told = texts(build(**given, codec=Codec((FixedPoint(12), SecureSum(bits=12)))))
    assert not any("cannot" in text for text in told)

    class Fragile(FixedPoint):
        def forward(self, m, s, ctx):
            raise_if_not_finite(m)
            return super().forward(m, s, ctx)

    told = texts(build(**given, codec=Codec((Fragile(12), SecureSum(bits=12)))))
    assert told == ["message of peer 1 cannot be coded: not finite"] * 2


def raise_if_not_finite(m):
    from hubless.errors import CodecError

    if not all(bool(torch.isfinite(value).all()) for value in m.values()):
        raise CodecError("not finite")


def test_bytes_and_messages_are_counted():
    """A star of n: n - 1 broadcasts; each sender but the aggregator itself sends 3 messages and hears 2."""
    n = 8
    run = build(codec="secure-sum", overlay=Star(weigh="one"), workload=workload(n))
    plain = build(overlay=Star(weigh="one"), workload=workload(n))
    hidden, bare = rounds(run)[-1], rounds(plain)[-1]
    assert hidden["messages"] == 3 * (n - 1) * (1 + 1 + 4)
    assert hidden["control_messages"] == 3 * (n - 1) * 4
    model = Raw().length({"w": torch.zeros(75)})
    assert bare["bytes"] == 3 * (n - 1) * 2 * model
    ids, header = 4 * n, 200
    small = (n - 1) * (16 + 50) + ids + (ids + (n - 1) * (50 + 4)) + n * (17 + 4) + 4 * header
    assert 2 * model < hidden["bytes"] / (3 * (n - 1)) < 2 * model + small


def test_few_neighbours_make_small_messages_smaller():
    runs = {
        k: build(codec=f"secure-sum:neighbours={k}", overlay=Star(weigh="one"), workload=workload(12)) for k in (0, 2)
    }
    sent = {k: rounds(run)[-1]["bytes"] for k, run in runs.items()}
    assert sent[2] < 0.75 * sent[0]


@pytest.mark.parametrize("name", ["rotating", "full", "batchnorm star"])
def test_resuming_is_bit_for_bit(name, tmp_path):
    given = dict(codec=LOW, rounds=4, setting=FAULTS)
    whole = [record.line() for record in experiment(name, **given).records()]
    seen, short = [], experiment(name, **given)
    for record in short.records():
        seen.append(record.line())
        if record.kind == "round" and record.round == 2:
            checkpoint.save(tmp_path, short.snapshot(), Identity("toy", "1", "x"))
            break
    rest = experiment(name, **given).records(checkpoint.load(tmp_path, Identity("toy", "1", "x")))
    assert [*seen, *(record.line() for record in rest)] == whole


@dataclass(frozen=True)
class Picky(Merge):
    def accept(self, sender, m, ctx):
        super().accept(sender, m, ctx)


REFUSED = {
    "codec: secure sums show only the total, but Median needs each message": dict(merge=Median()),
    "codec: secure sums show only the total, but Picky needs each message": dict(merge=Picky(WeightedMean())),
    "codec: secure sums show only the total, but Delta needs each message": dict(codec="delta+secure-sum"),
    "codec: Uniform does not decode sums, so SecureSum cannot follow it; use rqm, pbm or fixed-point":
        dict(codec="uniform:8+secure-sum"),
    "codec: Half cannot follow a secure sum, which must be the last stage": dict(codec="secure-sum+float16"),
    "codec: SecureSum comes twice; keep one of them": dict(codec="secure-sum+secure-sum"),
    "codec: secure-sum.bits = 3: the sum of 7 senders needs 4 bits": dict(codec="secure-sum:bits=3"),
    "codec: secure-sum.bits = 8: the sum of 7 senders needs 16 bits": dict(codec="fixed-point:16+secure-sum:bits=8"),
    "codec: secure-sum.bits = 6: the sum of 8 senders needs 7 bits":
        dict(codec="rqm:0.1+secure-sum:bits=6", overlay=Star(weigh="one"), merge=ServerOpt()),
    "codec: secure sums need equal weights, but 'up' has several; use Star(weigh='one'), Gossip over a regular graph or"
    " with weights='uniform', or one aggregator": dict(overlay=Star(), workload=workload(8, "dirichlet:0.3")),
    "codec: secure sums need equal weights, but 'gossip' has several": dict(overlay=Gossip(make("topology", "grid"))),
    "codec: secure sums need equal weights, but 'down' has several": dict(overlay=Sampled(sample=5, aggregators=2)),
    "codec: a secure sum needs at least 2 senders besides the receiver, but peer 0 plans to hear from fewer in"
    " 'gossip'; use a topology of degree 2 or more, or more participants":
        dict(overlay=Gossip(make("topology", "line"), weights="uniform")),
    "codec: a secure sum needs at least 2 senders besides the receiver, but peer 0 plans to hear from fewer in 'up'":
        dict(overlay=Star(2, weigh="one"), workload=workload(2)),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_summed_is_refused(said):
    given = {"workload": workload(8), "overlay": Gossip(Full()), "codec": "secure-sum", **REFUSED[said]}
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        build(**given)


def test_a_topology_that_thins_out_closes_inboxes_and_the_run_goes_on():
    later = Scheduled(((1, Gossip(Full())), (3, Gossip(make("topology", "star"), weights="uniform"))))
    told = texts(build(codec="secure-sum", overlay=later, workload=workload(8), rounds=4))
    assert (
        told
        == [
            "inboxes in 'gossip' that stayed closed: 7; that of peer 1: secure sum: fewer than 2 senders besides the"
            " receiver arrived"
        ]
        * 2
    )


def test_a_model_of_two_shapes_of_buffers_is_summed_without_loss():
    """Statistics far beyond the range of parameters keep their size."""

    def wide():
        module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        module[1].running_var.fill_(3000.0)
        return module

    model = Model(wide, name="wide")
    given = dict(overlay=Gossip(Full()), workload=workload(8, model=model))
    plain, hidden = finish(build(**given)), finish(build(**given, codec="secure-sum"))
    entry = next(entry for entry in plain if entry.endswith("running_var"))
    assert float(plain[entry].max()) > 1000
    assert torch.allclose(plain[entry], hidden[entry], rtol=1e-6)


def test_a_star_that_keeps_rows_is_judged_by_the_aggregators_model():
    stored, kept = (metrics(build(overlay=Star(weigh="one"), merge=ServerOpt(), codec=codec)) for codec in
                    ("raw", "delta:keyframe=1"))  # fmt: skip
    assert [one["accuracy"] for one in kept] == pytest.approx([one["accuracy"] for one in stored])
    assert [one["loss"] for one in kept] == pytest.approx([one["loss"] for one in stored], rel=1e-5)
