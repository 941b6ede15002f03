"""Peers apart: numbers that blow up, no data, death, hostility, cohorts, statistics of their own."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from small import (
    BATCHNORM,
    BLOBS,
    GROUPS,
    PLAIN,
    apart,
    build,
    close,
    finish,
    first_row,
    metrics,
    network,
    rows,
    workload,
)
from torch import nn

from hubless.data.dataset import Dataset
from hubless.data.partition import Partition
from hubless.errors import NonFiniteError
from hubless.learn import (
    SGD,
    Alone,
    Attack,
    Codec,
    Distil,
    Gossip,
    Median,
    Model,
    ServerOpt,
    Stage,
    Star,
    Workload,
    keys,
)
from hubless.learn.attacks import SignFlip, hostile
from hubless.net.topologies import Full, Ring


@dataclass(frozen=True)
class Explosion(Attack):
    """Hostile peers train on inputs so large that their loss is no number."""

    def data(self, w, x, y, book, ctx):
        return x * torch.inf, y


@dataclass(frozen=True)
class Poison(Attack):
    """Hostile peers send what is no number."""

    def message(self, m, honest, book, ctx):
        return {name: value * torch.nan for name, value in m.items()}


@dataclass(frozen=True)
class Stunted(Attack):
    """Hostile peers send too few numbers."""

    def message(self, m, honest, book, ctx):
        return {name: value[..., 1:] for name, value in m.items()}


@dataclass(frozen=True)
class Lonely(Partition):
    """Peer 1 has nothing."""

    def deal(self, y, peers, rng):
        raise NotImplementedError

    def split(self, y, peers, seed):
        parts = np.array_split(np.arange(len(y)), peers - 1)
        return [parts[0], np.zeros(0, dtype=np.int64), *parts[1:]]


class Nothing(Stage):
    """Forces messages."""


OVERLAYS = [Gossip(Ring()), Star()]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_stops_at_a_peer_that_blows_up(overlay):
    run = build(overlay=overlay, attack=Explosion((3,)))
    with pytest.raises(NonFiniteError, match=r"peer 3, round 1: .*nonfinite drop") as stop:
        list(run.records())
    assert (stop.value.peer, stop.value.round) == (3, 1)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_or_goes_on_without_it(overlay):
    run = build(overlay=overlay, attack=Explosion((3,)), setting={"nonfinite": "drop"})
    records = list(run.records())
    assert next(r.data["text"] for r in records if r.kind == "event").startswith("peer 3 dropped: ")
    rounds = [r.metrics for r in records if r.kind == "round"]
    assert [m["alive"] for m in rounds] == [4, 4, 4]
    assert [m["trained"] for m in rounds] == [4, 4, 4]
    assert torch.isfinite(run.snapshot().tensors["cohort.0/rows"]).all()
    assert run.snapshot().meta["population"]["excluded"] == [3]


def test_dropping_is_the_same_streamed_and_kept():
    @dataclass(frozen=True)
    class KeptStar(Star):
        shared: ClassVar[bool] = False

    given = dict(attack=Explosion((3,)), setting={"nonfinite": "drop"}, workload=workload(partition="dirichlet:0.5"))
    streamed, kept = build(overlay=Star(), **given), build(overlay=KeptStar(), **given)
    one, other = metrics(streamed), metrics(kept)
    close(streamed.snapshot().tensors["cohort.0/rows"], kept.snapshot().tensors["cohort.0/rows"][:1])
    for name in ("messages", "trained", "train_loss"):
        assert [m.get(name) for m in one] == pytest.approx([m.get(name) for m in other]), name


@pytest.mark.parametrize("codec", [Codec(), Codec((Nothing(),))], ids=["rows", "messages"])
@pytest.mark.parametrize("attack", [Poison((1,)), Stunted((1,))])
@pytest.mark.parametrize("overlay", [Gossip(Full()), Star()])
def test_messages_that_cannot_be_used_are_dropped_and_counted(attack, codec, overlay):
    run = build(overlay=overlay, attack=attack, codec=codec)
    seen = list(run.records())
    each = 4 if isinstance(overlay, Gossip) else 1
    assert [r.metrics["rejected"] for r in seen if r.kind == "round"] == [each, 2 * each, 3 * each]
    assert any("message of peer 1 refused: w " in r.data["text"] for r in seen if r.kind == "event")
    assert torch.isfinite(run.snapshot().tensors["cohort.0/rows"]).all()


def test_what_a_hostile_peer_keeps_is_honest():
    """On a ring, its own share of its next model is what it trained, not what it sends."""
    given = dict(rounds=1, overlay=Gossip(Ring()))
    trained = rows(build(**{**given, "overlay": Alone()}))
    start = first_row(PLAIN)
    lied = 2 * start - trained[1]
    mixed = rows(build(**given, attack=SignFlip((1,))))
    close(mixed[1], (trained[0] + trained[1] + trained[2]) / 3)
    close(mixed[0], (trained[4] + trained[0] + lied) / 3)


def test_hostile_peers_are_not_scored():
    run = build(attack=SignFlip((1, 2)))
    last = list(run.records())[-1]
    assert [value is None for value in last.peers["accuracy"]] == [False, True, True, False, False]
    honest = [value for value in last.peers["accuracy"] if value is not None]
    assert last.metrics["accuracy"] == pytest.approx(sum(honest) / 3)


def test_a_share_of_hostile_peers_spares_the_aggregator():
    for seed in range(20):
        chosen = hostile(SignFlip(0.4), 10, seed)
        assert len(chosen) == len(set(chosen)) == 4
        assert 0 not in chosen
    assert hostile(SignFlip(0.4), 10, 0) != hostile(SignFlip(0.4), 10, 1)
    assert hostile(SignFlip((7, 3, 3)), 10, 0) == [3, 7]
    assert hostile(None, 10, 0) == []


def test_the_dead_are_not_scored_and_keep_their_model():
    run = build(rounds=3, setting={"faults": "crash:peer=2@2"})
    records = list(run.records())
    assert records[-1].peers["accuracy"][2] is None
    short = rows(build(rounds=1))
    close(run.snapshot().tensors["cohort.0/rows"][2], short[2], within=0)
    last = [r for r in records if r.kind == "round"][-1]
    assert last.peers["alive"] == [1, 1, 0, 1, 1]
    assert last.metrics["alive"] == 4


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("local", [SGD(lr=0.2, steps=2, batch=8), SGD(lr=0.2, epochs=1, batch=8)])
def test_a_peer_without_data_listens(overlay, local):
    run = build(workload=workload(5, Lonely()), overlay=overlay, local=local)
    seen = metrics(run)
    assert [m["trained"] for m in seen[:-1]] == [4, 4, 4]
    assert seen[-2]["train_loss"] < seen[0]["train_loss"]
    if isinstance(overlay, Gossip):
        alone = rows(build(workload=workload(5, Lonely()), overlay=Alone(), local=local))
        assert apart(run.snapshot().tensors["cohort.0/rows"][1], alone[1]) > 1e-3


def test_cohorts_of_two_shapes_teach_each_other():
    narrow = Model(lambda: nn.Linear(5, 3), name="narrow")
    models = [(PLAIN, (0, 2, 4)), (narrow, (1, 3))]
    public = torch.from_numpy(BLOBS.test_x[:20])
    given = dict(models=models, rounds=4, local=SGD(lr=0.3, steps=4, batch=8))
    together = build(merge=Distil(public=public, steps=10), overlay=Gossip(Full()), **given)
    apart_ = build(overlay=Alone(), merge=Distil(public=public), **given)

    def disagreement(run):
        list(run.records())
        cohorts = run._state.wiring.population.cohorts
        said = torch.stack([c.model.forward(row, public) for c in cohorts for row in c.rows])
        return float(said.var(0).mean())

    assert disagreement(together) < disagreement(apart_) / 2
    record = list(together.records())[-1]
    assert "accuracy_mean_model" not in record.metrics
    assert len(record.peers["accuracy"]) == 5


def test_every_peer_has_its_own_statistics():
    given = dict(workload=workload(5, "dirichlet:0.3", BATCHNORM), overlay=Alone())
    state = finish(build(**given))["cohort.0/state/buffer/1.running_mean"]
    assert apart(state[0], state[1]) > 1e-3


def test_peers_may_start_apart():
    model = Model(lambda: network((5,), 3), same=False)
    start = build(workload=workload(model=model), overlay=Alone(), local=SGD(lr=1e-9, steps=1))
    values = rows(start)
    assert apart(values[0], values[1]) > 0.1
    assert apart(rows(build(overlay=Alone(), local=SGD(lr=1e-9, steps=1)))[0], PLAIN.start(0)) > 0.1


def test_frozen_parameters_are_neither_trained_nor_sent():
    full, head = (build(workload=workload(model=network, frozen=frozen), rounds=2) for frozen in ((), ("0.",)))
    model = head.models[0][0]
    assert model.names == ("2.weight", "2.bias")
    before = {name: value.clone() for name, value in model.frozen.items()}
    assert metrics(head)[-1]["bytes"] < metrics(full)[-1]["bytes"]
    for name, value in model.frozen.items():
        close(value, before[name], within=0)


NUMBERS = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
LINE = Dataset.of(NUMBERS, NUMBERS @ np.array([1.0, -2.0, 0.5]), task="regression", name="line")
PLANE = Dataset.of(NUMBERS, NUMBERS @ np.eye(3)[:, :2], task="regression", name="plane")
LETTERS = Dataset.of(
    np.tile(np.arange(8), (60, 1)), np.tile((np.arange(8) + 1) % 8, (60, 1)), task="language", name="letters"
)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("data", "model"), [(LINE, "softmax"), (PLANE, "mlp:8"), (LETTERS, "byte-transformer:8:1:2")]
)  # fmt: skip
def test_numbers_and_texts_can_be_learned(data, model, overlay):
    local = SGD(lr=0.1, steps=5, batch=16)
    run = build(workload=Workload(data, "iid", 4, model), local=local, overlay=overlay, rounds=4, kernel="loop")
    seen = metrics(run)
    assert seen[-2]["train_loss"] < 0.8 * seen[0]["train_loss"]
    assert seen[-1]["loss"] < seen[0]["loss"]
    assert "accuracy" not in seen[-1]


class Own(nn.Module):
    """A user's module: two inputs made of one, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        return self.out(torch.cat([x * self.scale, torch.sin(x)], dim=-1))


def hinge(out, y):
    """A loss of one's own: one value a sample."""
    return nn.functional.multi_margin_loss(out, y, reduction="none")


@pytest.mark.parametrize("kernel", ["auto", "loop"])
def test_a_module_and_a_loss_of_ones_own(kernel):
    work = workload(model=lambda shape, outputs: Own(), loss=hinge)
    seen = metrics(build(workload=work, rounds=8, kernel=kernel, local=SGD(lr=0.1, steps=5, batch=16)))
    assert seen[-2]["train_loss"] < 0.7 * seen[0]["train_loss"]
    assert seen[-1]["accuracy"] > 0.6


def test_arrays_of_ones_own_and_groups():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 5))
    data = Dataset.of(x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 1), name="mine", classes=("a", "b", "c"))
    run = build(workload=Workload(data, "dirichlet:1.0", 4, GROUPS), rounds=5)
    records = list(run.records())
    assert records[0].data["classes"] == ["a", "b", "c"]
    assert sum(records[0].data["samples"]) == len(data)
    assert records[-1].metrics["loss"] < next(r.metrics["loss"] for r in records if r.kind == "round")


def test_the_start_record_says_what_there_is():
    start = next(build(attack=SignFlip((2,)), merge=Median(), setting={"faults": "loss:0.1"}).records())
    assert start.data["peers"] == 5
    assert start.data["parameters"] == PLAIN.size
    assert start.data["hostile"] == [2]
    assert start.data["faults"] == "loss:0.1"
    assert start.data["edges"] == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]
    assert 0 < start.data["spectral_gap"] < 1
    assert np.array(start.data["partition"]).sum() == sum(start.data["samples"])
    assert start.data["names"]["merge"] == "Median"


def test_bytes_are_counted_at_the_sender_and_never_for_oneself():
    run = build(rounds=2)
    last = [r for r in run.records() if r.kind == "round"][-1]
    size = Codec().length({"w": torch.zeros(PLAIN.size)})
    assert last.peers["bytes"] == [2 * 2 * size] * 5
    assert last.metrics["messages"] == 20
    dead = [r for r in build(rounds=2, setting={"faults": "crash:peer=0@1"}).records() if r.kind == "round"][-1]
    assert dead.peers["bytes"] == [0] + [4 * size] * 4
    star = [r for r in build(rounds=1, overlay=Star()).records() if r.kind == "round"][-1]
    assert star.peers["bytes"] == [4 * size] + [size] * 4


class Masked(Stage):
    """Every pair adds and takes away the same mask: the mean of all is right, one message alone means nothing."""

    def forward(self, m, s, ctx):
        size = m["w"].shape[0]
        mask = torch.zeros(size)
        for other in range(ctx.N):
            if other != ctx.peer:
                sign = 1 if ctx.peer < other else -1
                mask += sign * 5 * keys.normal(ctx.pair(ctx.peer, other), (size,))
        self.seen.append(float(mask.abs().max()))
        return {"w": m["w"] + mask}, s

    def __init__(self):
        self.seen = []


def test_two_peers_share_a_key_that_changes_by_round_and_stage():
    one, two = Masked(), Masked()
    given = dict(overlay=Star(weigh="one"), merge=ServerOpt())
    one.wants = two.wants = "delta"
    close(rows(build(**given, codec=Codec((one, two)))), rows(build(**given)), within=1e-4)
    assert min(one.seen) > 1
    assert len({*one.seen, *two.seen}) == 2 * 3 * 5
