"""The aggregator role: pinned or handed on, streamed or kept, the numbers are the same; and what deaths do to it."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from small import BATCHNORM, apart, build, close, finish, metrics, rows, workload

from hubless.errors import ConfigError
from hubless.learn import (
    SGD,
    Codec,
    ControlVariate,
    Median,
    Rotating,
    Scaffold,
    ServerOpt,
    Stage,
    Star,
    TrimmedMean,
    WeightedMean,
)
from hubless.learn.attacks import SignFlip

PLAIN = SGD(lr=0.2, steps=2, batch=8)
METHODS = {
    "mean": dict(local=PLAIN, merge=WeightedMean()),
    "adam": dict(local=PLAIN, merge=ServerOpt(rule="adam", lr=0.05)),
    "momentum": dict(local=PLAIN, merge=ServerOpt(rule="momentum", lr=0.3)),
    "median": dict(local=PLAIN, merge=Median()),
    "trimmed updates": dict(local=PLAIN, merge=ServerOpt(TrimmedMean(0.2))),
    "scaffold": dict(local=SGD(lr=0.2, steps=2, batch=8, gradient=ControlVariate()), merge=Scaffold()),
}
WEATHER = {"fair": "", "crash": "crash:peer=3@2", "back again": "crash:peer=2+4@2-3", "no data": "data:peer=1@2"}


@dataclass(frozen=True)
class KeptStar(Star):
    """A star whose peers each keep a row: what streaming must equal."""

    shared: ClassVar[bool] = False


@dataclass(frozen=True)
class KeptRotating(Rotating):
    """The same for a role that moves."""

    shared: ClassVar[bool] = False


def hub(values):
    """The aggregator's row of a star."""
    return values[:1]


@pytest.mark.parametrize("weather", WEATHER)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sample", [0, 3])
def test_a_role_that_moves_gives_the_numbers_of_one_that_stays(method, weather, sample):
    given = dict(METHODS[method], rounds=4, setting={"faults": WEATHER[weather]}, workload=workload(6))
    still = rows(build(overlay=Star(sample), **given))
    close(rows(build(overlay=Rotating(sample), **given)), still)
    moving = build(overlay=KeptRotating(sample), **given)
    kept = finish(moving)["cohort.0/rows"]
    holders = moving.snapshot().meta["overlay"]["sholders"]
    assert len(holders) == 2
    for holder in holders:
        close(kept[holder : holder + 1], still)


@pytest.mark.parametrize("weather", [*WEATHER.values(), "loss:0.3", "loss:0.2,crash:peer=3@2,straggler:50%x4"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sample", [0, 3])
def test_streaming_equals_keeping_every_row(method, weather, sample):
    given = dict(METHODS[method], rounds=4, setting={"faults": weather}, workload=workload(6, "dirichlet:0.5"))
    streamed, kept = build(overlay=Star(sample), **given), build(overlay=KeptStar(sample), **given)
    one, all_of_them = metrics(streamed), metrics(kept)
    close(streamed.snapshot().tensors["cohort.0/rows"], hub(kept.snapshot().tensors["cohort.0/rows"]))
    for ours, theirs in zip(one, all_of_them, strict=True):
        for name in ("bytes", "messages", "clock", "lost", "rejected", "trained", "alive"):
            assert ours.get(name) == theirs.get(name), name
        if "train_loss" in ours or "train_loss" in theirs:
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)


@pytest.mark.parametrize("peers", [(1, 4), (0, 3)], ids=["others", "the aggregator too"])
@pytest.mark.parametrize("method", METHODS)
def test_streaming_equals_keeping_with_hostile_peers(method, peers):
    given = dict(METHODS[method], workload=workload(6), attack=SignFlip(peers, scale=2.0))
    close(rows(build(overlay=Star(), **given)), hub(rows(build(overlay=KeptStar(), **given))))


class Rounded(Stage):
    """Rounds, and adds next time what it took away; the aggregator does so with its broadcasts, too."""

    def init(self, model):
        return {"residual": torch.zeros(model.size)}

    def forward(self, m, s, ctx):
        wanted = m["w"] + s["residual"]
        said = (wanted * 20).round() / 20
        return {**m, "w": said}, {**s, "residual": wanted - said}


@pytest.mark.parametrize("method", ["mean", "adam", "median"])
@pytest.mark.parametrize("faults", ["", "loss:0.2,crash:peer=3@2"])
def test_streaming_equals_keeping_with_a_codec_that_loses_and_remembers(method, faults):
    """The aggregator hears itself uncoded on the way down, and coded on the way up."""
    given = dict(METHODS[method], codec=Codec((Rounded(),)), setting={"faults": faults}, workload=workload(6))
    streamed, kept = finish(build(overlay=Star(), **given)), finish(build(overlay=KeptStar(), **given))
    close(streamed["cohort.0/rows"], hub(kept["cohort.0/rows"]))
    close(streamed["cohort.0/state/residual"], kept["cohort.0/state/residual"])
    close(streamed["meter/sent"], kept["meter/sent"], within=0)


@pytest.mark.parametrize("merge", [WeightedMean(), ServerOpt(rule="adam", lr=0.05), Median()])
def test_statistics_of_batches_travel_with_the_model(merge):
    given = dict(workload=workload(6, model=BATCHNORM), local=PLAIN, merge=merge, rounds=3)
    still, kept, moving = (finish(build(overlay=o, **given)) for o in (Star(), KeptStar(), Rotating()))
    own = KeptRotating()
    last = build(overlay=own, **given)
    walked = finish(last)
    holder = last.snapshot().meta["overlay"]["sholders"][0]
    for name in ("rows", "state/buffer/1.running_mean", "state/buffer/1.running_var"):
        name = f"cohort.0/{name}"
        close(moving[name], still[name])
        close(hub(kept[name]), still[name])
        close(walked[name][holder : holder + 1], still[name])


@pytest.mark.parametrize("overlay", [Star(), KeptStar()])
@pytest.mark.parametrize("faults", ["crash:aggregator@3", "crash:peer=0@3"])
def test_a_star_learns_nothing_after_its_centre_died(overlay, faults):
    short = rows(build(overlay=overlay, rounds=2))
    run = build(overlay=overlay, rounds=5, setting={"faults": faults})
    seen = metrics(run)
    close(run.snapshot().tensors["cohort.0/rows"][:1], short[:1], within=0)
    assert [m["trained"] for m in seen[:-1]] == [5, 5, 0, 0, 0]
    assert seen[2]["bytes"] == seen[1]["bytes"]


@pytest.mark.parametrize("overlay", [Rotating(), KeptRotating()])
@pytest.mark.parametrize("merge", [WeightedMean(), ServerOpt(rule="adam", lr=0.05)])
def test_a_role_that_moves_outlives_its_holder(overlay, merge):
    seen = metrics(build(overlay=overlay, merge=merge, rounds=5, setting={"faults": "crash:aggregator@3"}))
    assert [m["trained"] for m in seen[:-1]] == [5, 5, 4, 4, 4]
    assert seen[-2]["train_loss"] < seen[1]["train_loss"]


def test_streamed_and_kept_roles_agree_when_the_holder_dies():
    given = dict(merge=ServerOpt(rule="adam", lr=0.05), rounds=5, setting={"faults": "crash:aggregator@3"})
    streamed, kept = build(overlay=Rotating(), **given), build(overlay=KeptRotating(), **given)
    one, other = rows(streamed), rows(kept)
    assert streamed.snapshot().meta["overlay"] == kept.snapshot().meta["overlay"]
    assert streamed.snapshot().meta["faults"] == kept.snapshot().meta["faults"]
    holder = kept.snapshot().meta["overlay"]["sholders"][0]
    close(one, other[holder : holder + 1])


@pytest.mark.parametrize("overlay", [Rotating(copies=1), KeptRotating(copies=1)])
def test_a_role_with_one_copy_dies_with_its_holder(overlay):
    run = build(overlay=overlay, rounds=5, setting={"faults": "crash:aggregator@3"})
    records = list(run.records())
    assert [r.metrics["trained"] for r in records if r.kind == "round"] == [5, 5, 0, 0, 0]
    assert any("which is gone, so nobody learns" in r.data["text"] for r in records if r.kind == "event")


@pytest.mark.parametrize("overlay", [Rotating(), KeptRotating()])
def test_a_role_whose_handing_on_is_lost_stays(overlay):
    """With all links down, the holder goes on by itself."""
    run = build(overlay=overlay, rounds=3, setting={"faults": "loss:1.0@2-3"}, merge=ServerOpt(rule="adam", lr=0.05))
    records = list(run.records())
    assert [r.metrics["trained"] for r in records if r.kind == "round"] == [5, 1, 1]
    said = [r.data["text"] for r in records if r.kind == "event"]
    book = run.snapshot().meta["overlay"]
    reached_nobody = any("handing it on reached nobody" in text for text in said)
    assert reached_nobody or book["sholders"] == [book["saggregator"]]


def test_handing_on_costs_bytes_and_nothing_else():
    still, moving = metrics(build(overlay=Star())), metrics(build(overlay=Rotating()))
    assert moving[-1]["bytes"] > still[-1]["bytes"]
    assert moving[-1]["accuracy"] == pytest.approx(still[-1]["accuracy"])


def test_moments_move_with_the_role_and_stay_nowhere_else():
    run = build(overlay=Rotating(), merge=ServerOpt(rule="adam", lr=0.05))
    tensors = finish(run)
    owners = {int(name.split("/")[1].split("\x1f")[0][1:]) for name in tensors if name.startswith("book/")}
    assert owners == set(run.snapshot().meta["overlay"]["sholders"])
    moments = [value for name, value in tensors.items() if name.endswith("server.m")]
    assert apart(moments[0], moments[1]) == 0
    assert float(moments[0].abs().max()) > 0


def test_copies_and_participants_are_checked():
    with pytest.raises(ConfigError, match=r"copies = 0: must be at least 1"):
        Rotating(copies=0)
    with pytest.raises(ConfigError, match=r"participants = 9: there are only 5 peers"):
        build(overlay=Star(9))
    assert torch.equal(rows(build(overlay=Star(5))), rows(build(overlay=Star())))
