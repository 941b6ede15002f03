from dataclasses import replace

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.experts.owned import Experts
from hubless.learn.slots import Attack

RECIPE = catalogue.find("spes").load()
FOUR = dict(peers=4, rounds=4)


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors


def rows(**options):
    return run(**options)[1]["cohort.0/rows"]


def metrics(records, name):
    return [r.metrics[name] for r in records if r.kind == "round" and name in r.metrics]


@pytest.mark.parametrize("method", ["spes", "local-sparse", "fedavg", "central"])
def test_a_tiny_run_is_the_same_twice(method):
    first, second = (run(method=method, seed=3)[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    losses = metrics(first, "loss")
    assert losses[-1] < losses[0]
    drawn = [r.data["type"] for r in first if r.kind == "figure"]
    assert drawn == ["bars", "bars", "heatmap", "heatmap"]


def test_all_nodes_have_one_model_bit_for_bit():
    W = rows(**FOUR)
    assert all(torch.equal(W[0], w) for w in W)


def test_nodes_that_never_exchange_leave_foreign_experts_as_they_were():
    experiment = RECIPE.build({**FOUR, "method": "local-sparse"}, "tiny")
    list(experiment.records())
    W = experiment.snapshot().tensors["cohort.0/rows"]
    model = experiment.models[0][0]
    experts = Experts.of(model)
    short = RECIPE.build({**FOUR, "method": "local-sparse", "rounds": 1, "steps": 1, "lr": 1e-12, "warmup": 0}, "tiny")
    list(short.records())
    start = short.snapshot().tensors["cohort.0/rows"]
    for peer in range(4):
        for number in range(4):
            same = torch.allclose(experts.all(W[peer])[number], experts.all(start[peer])[number], atol=1e-9)
            assert same == (number != peer)


def test_the_footprint_is_what_a_node_trains():
    records, tensors = run(**FOUR)
    model = RECIPE.build(FOUR, "tiny").models[0][0]
    experts = Experts.of(model)
    trained = model.size - 3 * experts.size
    assert tensors["cohort.0/state/adam.m"].shape == (4, trained)
    assert metrics(records, "trainable")[-1] == trained
    assert metrics(records, "optimiser_bytes")[-1] == 2 * 4 * trained
    each = metrics(records, "uploaded_bytes")[-1] / (3 * 4)  # to 3 others in 4 rounds
    assert 4 * trained <= each < 4 * trained + 200
    everything = run(**FOUR, method="fedavg")[0]
    assert metrics(everything, "optimiser_bytes")[-1] == 2 * 4 * model.size


def test_the_warm_up_blends_early_alone():
    plain, early = rows(alpha=0.0, rounds=2), rows(alpha=0.5, rounds=2, blend=0.5)
    assert torch.equal(plain, early)  # alpha is 0 at round 1 of 1
    assert not torch.equal(rows(alpha=0.0, rounds=2), rows(alpha=0.5, rounds=2, blend=1.0))


def test_a_server_for_good_or_for_a_round_merges_the_same():
    star, rotating = (run(exchange=exchange, **FOUR)[0] for exchange in ("star", "rotating"))
    assert metrics(star, "loss") == pytest.approx(metrics(rotating, "loss"), abs=1e-6)
    assert metrics(star, "loss")[-1] < metrics(star, "loss")[0]
    assert metrics(star, "optimiser_bytes") == metrics(run(**FOUR)[0], "optimiser_bytes")


def test_an_absent_node_leaves_its_experts_and_comes_back():
    options = dict(peers=4, rounds=1, alpha=0.5, blend=1.0)
    experiment = RECIPE.build({**options, "faults": "crash:1@1"}, "tiny")
    records = list(experiment.records())
    gone = next(r for r in records if r.kind == "round").peers["alive"].index(0.0)
    W = experiment.snapshot().tensors["cohort.0/rows"]
    here = [peer for peer in range(4) if peer != gone]
    assert all(torch.equal(W[here[0]], W[peer]) for peer in here)
    experts = Experts.of(experiment.models[0][0])
    assert torch.equal(experts.all(W[here[0]])[gone], experts.all(W[gone])[gone])  # both as at the start
    assert metrics(records, "stale_experts") == [1.0]
    back = RECIPE.build({**options, "rounds": 5, "faults": "crash:1@1-2"}, "tiny")
    list(back.records())
    W = back.snapshot().tensors["cohort.0/rows"]
    assert all(torch.equal(W[0], w) for w in W)


class Thief(Attack):
    """Says all experts."""

    def message(self, m, honest, book, ctx):
        return m | {f"expert.{number}": m[f"expert.{ctx.peer}"] for number in range(4)}


def test_messages_with_foreign_experts_are_dropped_and_counted():
    experiment = RECIPE.build({**FOUR, "alpha": 0.0}, "tiny")
    experiment = replace(experiment.learning, attack=Thief(peers=(3,))).under(experiment.setting)
    records = list(experiment.records())
    assert metrics(records, "rejected")[-1] == 3 * 4
    told = [r.data["text"] for r in records if r.kind == "event"]
    assert "message of peer 3 refused: peer 3 sent expert.0, which peer 0 owns" in told
    W = experiment.snapshot().tensors["cohort.0/rows"]
    mine = [Experts.of(experiment.models[0][0]).all(w)[3] for w in W]
    assert torch.equal(mine[0], mine[1])
    assert not torch.equal(mine[0], mine[3])  # others have it as at the start


@pytest.mark.parametrize("options", [{"merge": "median"}, {"codec": "float16"}, {"attack": "sign-flip:25%"},
                                     {"schedule": "cosine"}, {"faults": "loss:0.3"}])  # fmt: skip
def test_it_goes_with_other_parts(options):
    losses = metrics(run(**FOUR, **options)[0], "loss")
    assert len(losses) == 4
    assert all(loss == loss and loss < 7 for loss in losses)


def test_resuming_gives_the_same_bits():
    experiment = RECIPE.build(FOUR, "tiny")
    records = []
    for record in experiment.records():
        records.append(record)
        if record.kind == "round" and record.round == 2:
            snapshot = experiment.snapshot()
            snapshot = type(snapshot)(snapshot.round, {n: v.clone() for n, v in snapshot.tensors.items()},
                                      snapshot.meta)  # fmt: skip
    again = list(RECIPE.build(FOUR, "tiny").records(snapshot))
    assert [r.line() for r in again] == [r.line() for r in records if r.round > 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"peers": 3}, "experts must divide evenly among nodes, but there are 4 for 3 peers"),
        ({"donors": 4}, "donors = 4: must be below the 4 experts"),
        ({"model": "byte-transformer:8"}, "it has no experts; use moe"),
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"warmup": 6}, "warmup = 6 must be below the 6 steps of the run"),
        ({"merge": "server"}, "spes.merge: shared weights need a rule such as"),
        ({"method": "fsdp"}, "method = 'fsdp'"),
        ({"data": "synthetic"}, "model"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_one_node_has_all_text_and_all_experts():
    experiment = RECIPE.build({**FOUR, "method": "central"}, "tiny")
    assert (experiment.n, experiment.local["train"].batch) == (1, 8)
    assert len(experiment.local["train"].init(experiment.models[0][0])["adam.m"]) == experiment.models[0][0].size
