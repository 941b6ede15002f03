import pytest
import torch

from hubless import catalogue
from hubless.data.partitions import KMeans
from hubless.errors import ConfigError, PartitionError
from hubless.learn import Alone, Learning
from hubless.learn.flows import generated
from hubless.learn.flows.collected import collected
from hubless.learn.flows.flow import AVERAGE, WEIGHT, average
from hubless.recipes.learning.ddm import identity_error

RECIPE = catalogue.find("ddm").load()
BARE = dict(strategy="full", monolith=False, distil=0, generated=20, sampling_steps=2)


def run(**options):
    experiment = RECIPE.build({"threads": 1, **options}, "tiny")
    return list(experiment.records()), experiment


def last(records):
    return next(record.metrics for record in reversed(records) if record.kind == "round")


def averages(experiment):
    tensors = experiment.snapshot().tensors
    state = {name: tensors[f"cohort.0/state/{name}"] for name in (AVERAGE, WEIGHT)}
    return average(tensors["cohort.0/rows"], state)


@pytest.fixture(scope="module")
def tiny():
    return run()


def test_a_run_shows_everything_that_can_be_made_of_the_experts(tiny):
    records, _ = tiny
    metrics = last(records)
    names = ("full", "top_1", "top_2", "sample_1", "uniform", "oracle", "one_model", "student", "floor")
    assert all(0 < metrics[f"frechet_{name}"] < 100 for name in names)
    assert metrics["frechet_floor"] == min(metrics[f"frechet_{name}"] for name in names)
    assert not any(name.startswith("frechet") for record in records[:3] for name in record.metrics)
    drawn = {record.data["name"]: record.data for record in records if record.kind == "figure"}
    assert set(drawn) == {"samples", "frechet", "clusters", "classes", "router"}
    assert drawn["samples"]["captions"][::8][:3] == ["real", "one model", "full"]
    assert sum(drawn["clusters"]["groups"]["samples"]) == 300
    assert [sum(row) for row in drawn["classes"]["values"]] == drawn["clusters"]["groups"]["samples"]


def test_experts_train_as_those_do_who_never_meet(tiny):
    _, experiment = tiny
    learning = experiment.asked
    lonely = Learning(learning.workload, learning.local, Alone(), rounds=learning.rounds).under(experiment.setting)
    list(lonely.records())
    ours, theirs = (one.snapshot().tensors["cohort.0/rows"] for one in (experiment, lonely))
    assert torch.equal(ours, theirs)


def test_only_the_collection_is_sent_and_it_carries_the_averages(tiny):
    records, experiment = tiny
    sent = [(r.metrics["messages"], r.metrics["bytes"]) for r in records if r.kind == "round"]
    assert sent[:3] == [(0, 0)] * 3
    size = experiment.models[0][0].size
    assert sent[3][0] == 2
    assert 2 * 4 * size < sent[3][1] < 2 * (4 * size + 200)
    ids, rows = collected(experiment._state.wiring.population)
    assert ids == [0, 1, 2]
    assert torch.equal(rows, averages(experiment))


def test_a_codec_works_on_what_is_collected(tiny):
    coded, experiment = run(codec="float16", **BARE)
    assert last(coded)["bytes"] < 0.6 * last(tiny[0])["bytes"]
    _, rows = collected(experiment._state.wiring.population)
    assert torch.allclose(rows, averages(experiment), atol=1e-3)
    assert torch.equal(rows[0], averages(experiment)[0]), "what the collector has of itself is not coded"


def test_one_expert_is_the_one_model():
    """A population of one is trained as the model that is trained beside experts."""
    beside, experiment = run(strategy="full", distil=0)
    alone, _ = run(peers=1, batch=30, strategy="full,uniform")
    assert last(alone)["frechet_full"] == last(beside)["frechet_one_model"]
    assert not {"frechet_uniform", "frechet_one_model", "router_bytes"} & set(last(alone))
    assert last(alone)["bytes"] == 0
    assert experiment.models[0][0].size


def test_a_peer_that_does_not_answer_is_missed_like_its_cluster(tiny):
    records, _ = run(faults="crash:34%@3", **BARE)
    metrics = last(records)
    assert metrics["experts"] == 2
    assert metrics["router_samples"] < 300
    assert metrics["messages"] == 1
    assert metrics["frechet_full"] > 0


def test_what_the_router_takes_is_told(tiny):
    metrics = last(tiny[0])
    router, expert = (6 + 13 + 1) * 8 + (8 + 1) * 3, (6 + 13 + 1) * 16 + (16 + 1) * 6
    assert metrics["router_bytes"] == pytest.approx(4 * router, abs=100)
    assert metrics["router_work"] == pytest.approx(router * 2 / (expert * 4))
    assert metrics["router_samples"] == 300
    assert 0 <= metrics["router_accuracy"] <= 1


def test_samples_do_not_depend_on_the_number_of_threads(monkeypatch):
    seen = set()
    follow = generated.follow
    monkeypatch.setattr(generated, "follow", lambda *args: seen.add(torch.get_num_threads()) or follow(*args))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(**BARE)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_a_hostile_expert_is_heard():
    clean, bad = (last(run(attack=attack, **BARE)[0]) for attack in ("none", "random-model:34%:std=3"))
    assert bad["frechet_full"] > 2 * clean["frechet_full"]


@pytest.mark.parametrize("partition", ["iid", "kmeans:fine=0", "kmeans:fine=20"])
def test_partitions(partition):
    records, experiment = run(partition=partition, **BARE)
    assert experiment.shards.sizes.sum() == 300
    assert last(records)["frechet_full"] > 0


def test_clusters_are_of_the_training_samples_of_the_seed():
    _, experiment = run(partition="kmeans:0", **BARE)
    data = experiment.learning.workload.dataset.subset(300, 0)
    held = KMeans(0).split(data.x, 3, 0)
    assert [len(rows) for rows in held] == experiment.shards.sizes.tolist()


def test_experts_of_vectors_need_no_pictures():
    records, _ = run(data="synthetic:samples=400:features=8", **BARE)
    assert "samples" not in {record.data["name"] for record in records if record.kind == "figure"}


def test_the_identity_holds_within_the_error_of_the_estimate():
    few, many = (max(identity_error(seed, samples=n) for seed in range(3)) for n in (4_000, 100_000))
    assert many < 0.05
    assert many < few


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "top-3"}, "strategy: unknown 'top-3'; did you mean 'top-2'. allowed: full, oracle, sample-1"),
        ({"components": 65}, "components = 65: must be from 1 to 64 for digits"),
        ({"partition": "kmeans:fine=2"}, "kmeans: fine = 2: must be 0, or at least the 3 peers"),
        ({"model": "cnn"}, "cnn takes images"),
        ({"ema": 1}, "ema = 1"),
        ({"codec": "secure-sum"}, "secure sums show only the total, but Collection needs each message"),
        ({"attack": "label-flip:34%"}, "label"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_a_cluster_smaller_than_half_a_batch_is_named():
    with pytest.raises(
        PartitionError, match=r"leaves peer \d of 3 with \d+ samples, fewer than 150 \(half a mini-batch"
    ):
        RECIPE.build({"batch": 300}, "tiny")


def test_the_seed_decides_the_clusters():
    one, other = (RECIPE.build({"seed": seed}, "tiny").shards.sizes.tolist() for seed in (0, 1))
    assert one != other
