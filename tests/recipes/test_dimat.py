import json

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.matching.alternating import Alternating
from hubless.learn.matching.barrier import PLACES, height
from hubless.net.topologies import Ring
from hubless.run.setting import Setting
from hubless.testing import check_overlay

RECIPE = catalogue.find("dimat").load()


def run(**options):
    experiment = RECIPE.build({"threads": 1, **options}, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"]


def rounds(records):
    return [record.metrics for record in records if record.kind == "round"]


def figures(records):
    return {record.data["name"]: record.data for record in records if record.kind == "figure"}


@pytest.mark.parametrize("lead", [True, False])
@pytest.mark.parametrize("silent", [True, False])
def test_the_overlay_keeps_its_contract(lead, silent):
    check_overlay(Alternating(Ring(), lead=lead, silent=silent), rounds=5)


@pytest.mark.parametrize("merge", ["matched", "matched:weight", "mean"])
def test_a_round_merges_and_a_round_trains_in_turn(merge):
    said = rounds(run(merge=merge)[0])
    assert [metrics["trained"] for metrics in said] == [3, 0, 3, 0, 3]
    assert [metrics["messages"] for metrics in said] == [0, 6, 6, 12, 12]


def test_accuracy_around_a_merge_is_the_ordinary_evaluation_of_two_rounds():
    records, _ = run(partition="dirichlet:0.5")
    said = rounds(records)
    for t in (1, 3):
        assert said[t]["accuracy_before"] == said[t - 1]["accuracy"]
        assert said[t]["accuracy_after"] == said[t]["accuracy"]
    assert not any("accuracy_after" in said[t] for t in (0, 2, 4))
    lines = figures(records)["around-merges"]["lines"]
    assert lines["before"] == [said[0]["accuracy"], said[2]["accuracy"]]
    assert lines["after"] == [said[1]["accuracy"], said[3]["accuracy"]]
    assert said[1]["accuracy"] != said[0]["accuracy"]


def test_rounds_that_are_not_evaluated_have_no_accuracy_around_a_merge():
    said = rounds(run(evaluate=3)[0])
    assert not any("accuracy_after" in metrics for metrics in said)


def test_peers_start_apart_or_alike():
    apart, alike = (
        RECIPE.build({"start": start, "pretrain": 0, "rounds": 1, "lr": 1e-9, "alone": True}, "tiny")
        for start in ("different", "same")
    )
    rows = []
    for experiment in (apart, alike):
        list(experiment.records())
        rows.append(experiment.snapshot().tensors["cohort.0/rows"])
    assert (rows[0][0] - rows[0][1]).abs().max() > 0.1
    assert torch.allclose(rows[1][0], rows[1][1], atol=1e-4)


def test_alone_nobody_speaks_and_rounds_pass_alike():
    said = rounds(run(alone=True)[0])
    assert [metrics["bytes"] for metrics in said] == [0] * 5
    assert [metrics["trained"] for metrics in said] == [3, 0, 3, 0, 3]
    assert said[1]["accuracy_before"] == said[1]["accuracy_after"]


def test_pretraining_is_a_round_of_its_own_number_of_steps():
    """Thirty steps in one round are ten rounds of three, up to the batches that are drawn."""
    once = rounds(run(pretrain=60, rounds=1)[0])[0]
    none = rounds(run(pretrain=0, rounds=1)[0])
    assert len(none) == 2
    assert once["train_loss"] < rounds(run(pretrain=3, rounds=1)[0])[0]["train_loss"]


def test_the_barrier_falls_when_a_peer_is_aligned():
    records, _ = run(pretrain=150, samples=600, lr=0.2, model="mlp:64:32")
    (drawn,) = [metrics for metrics in rounds(records) if "barrier" in metrics]
    assert drawn is rounds(records)[0]
    assert drawn["barrier"] > 0.05
    assert 0 <= drawn["barrier_activation"] < 0.5 * drawn["barrier"]
    assert 0 <= drawn["barrier_weight"] < 0.7 * drawn["barrier"]
    shown = figures(records)
    lines = shown["merge-barrier"]["lines"]
    ends = [(line[0], line[-1]) for line in lines.values()]
    assert len(lines) == 3
    for end in ends[1:]:
        assert end == pytest.approx(ends[0], rel=1e-4)
    assert all(len(line) == PLACES for line in lines.values())
    for name, units, apart, acting, weighing in shown["likeness"]["rows"]:
        assert units == {"1": 64, "3": 32}[name]
        assert apart < min(acting, weighing)
        assert weighing <= acting <= 1


def test_heights_are_over_the_straight_line():
    assert height([1.0, 2.0, 2.0]) == pytest.approx(0.5)
    assert height([1.0, 1.0, 2.0]) == 0


def test_a_network_whose_permutations_are_not_known_can_be_averaged():
    options = dict(data="synthetic:samples=120:features=16:classes=3", model="mlp:4", samples=0)
    records, _ = run(merge="mean", **options)
    assert "likeness" in figures(records)
    experiment = RECIPE.build({"threads": 1, "merge": "mean", "trainable": "head", **options}, "tiny")
    records = list(experiment.records())
    assert "likeness" not in figures(records)
    assert list(figures(records)["merge-barrier"]["lines"]) == ["as they are"]


@pytest.mark.parametrize(
    "options",
    [
        {"attack": "sign-flip:1"},
        {"codec": "float16"},
        {"optimiser": "adam", "lr": 0.01},
        {"model": "cnn-bn", "rounds": 1},
        {"merge": "median"},
        {"privacy": "dp-sgd:1:0.5", "rounds": 1, "merge": "mean"},
        {"weights": "metropolis", "topology": "random-matching", "peers": 4},
        {"faults": "crash:1@2", "personal": "head"},
        {"peers": 1, "topology": "full"},
    ],
    ids=str,
)
def test_other_slots_can_be_filled(options):
    records, rows = run(**options)
    assert records[-1].kind == "end"
    assert bool(torch.isfinite(rows).all())


def test_a_mixing_matrix_can_be_given(tmp_path):
    """The official bipartite graph of three agents; written as in its connectivity files."""
    path = tmp_path / "w.json"
    w = [[0.5, 0.0, 0.5], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]]
    path.write_text(json.dumps({"pi": w}))
    experiment = RECIPE.build({"weights": f"matrix:{path}", "topology": "edges:" + _edges(tmp_path)}, "tiny")
    mixing = experiment.learning.overlay.mixing(3, 0, torch.ones(3))
    assert mixing.matrix().tolist() == w


def _edges(folder):
    path = folder / "edges.txt"
    path.write_text("0 2\n1 2\n")
    return str(path)


@pytest.mark.parametrize(
    ("w", "words"),
    [
        ([[0.5, 0.6, 0], [0.5, 0.5, 0], [0, 0, 1]], "is not row-stochastic: row 0 sums to 1.1, not 1"),
        ([[1, 0, 0], [0, 1, 0], [0, -1, 2]], "must hold numbers >= 0"),
        ([[1, 0], [0, 1]], "has 2 rows, but there are 3 peers"),
        ([[1, 0, 0]], "must be a square matrix"),
        ("text", "holds no matrix"),
        ([[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]], "peer 0 takes from peer 1, which the topology does not link"),
    ],
)
def test_a_matrix_that_is_none_is_refused(tmp_path, w, words):
    path = tmp_path / "w.json"
    path.write_text(json.dumps(w))
    with pytest.raises(ConfigError, match=words):
        RECIPE.build({"weights": f"matrix:{path}", "topology": "edges:" + _edges(tmp_path)}, "tiny")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"merge": "matched:activation:1"}, "merge.calibration = 1"),
        ({"merge": "matched:spec=none.json"}, "cannot be read as JSON"),
        ({"merge": "matched:sound"}, "by = 'sound' must be"),
        ({"model": "resnet:9"}, r"8, 14, 20, 32, \.\.\. layers"),
        ({"data": "text", "model": "byte-transformer"}, "cannot be traced|unknown data"),
        ({"topology": "random-regular:7"}, "random-regular"),
        ({"privacy": "dp-sgd:1:0.5"}, "Matched makes what a peer sends of the peer's own data"),
        ({"rounds": 0}, "rounds"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_input_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny").under(Setting())
