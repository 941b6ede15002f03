import warnings

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn.teaching.matchmaking import Matchmaking

RECIPE = catalogue.find("knexa").load()


def run(preset="tiny", **options):
    experiment = RECIPE.build({"threads": 1, **options}, preset)
    return list(experiment.records()), experiment


def rounds(records):
    return [record.metrics for record in records if record.kind == "round"]


@pytest.mark.parametrize("match", ["linucb", "random", "hetero", "central", "none"])
def test_every_way_to_match_runs(match):
    records, _ = run(match=match)
    lessons = [metrics["lessons"] for metrics in rounds(records)]
    assert lessons == {"none": [0] * 4, "central": [6] * 4}.get(match, [2] * 4)
    drawn = [record.data["title"] for record in records if record.kind == "figure"]
    assert drawn[0].startswith("Who taught whom")
    assert ("What lessons were worth" in drawn) == (match != "none")


def test_peers_have_networks_of_their_own_widths():
    _, experiment = run()
    shapes = {name: tuple(value.shape) for name, value in experiment.model().items() if name.endswith("1.weight")}
    assert set(shapes.values()) == {(8, 64), (12, 64)}
    assert [ids.tolist() for _, ids in experiment.models] == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.parametrize("role", ["star", "rotating"])
def test_where_the_role_is_changes_bytes_only(role):
    records, _ = run(role=role)
    still, _ = run(role="star")
    assert [m["accuracy"] for m in rounds(records)] == [m["accuracy"] for m in rounds(still)]
    assert (rounds(records)[-1]["bytes"] > rounds(still)[-1]["bytes"]) == (role == "rotating")


def test_lost_lessons_and_dead_peers():
    records, _ = run(faults="crash:peer=0+1@2,loss:0.5", rounds=6)
    assert sum(metrics["lessons"] for metrics in rounds(records)) < 12
    assert rounds(records)[-1]["alive"] == 4


def test_it_composes_with_codecs_attacks_and_the_papers_reward():
    records, _ = run(codec="float16", attack="label-flip:20%", reward="loss", held=2, context="concat")
    plain, _ = run(attack="label-flip:20%", reward="loss", held=2, context="concat")
    assert rounds(records)[0]["bytes"] < rounds(plain)[0]["bytes"]


def test_utilities_are_another_experiment():
    records, experiment = run("utilities", rounds=5)
    assert isinstance(experiment.asked, Matchmaking)
    assert rounds(records)[-1]["pairs"] == 4
    oracle, _ = run("utilities", rounds=5, match="oracle")
    assert rounds(oracle)[-1]["regret"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": 4}, "pairs = 4: must be from 1 to 3, half of the 6 peers"),
        ({"pairs": 9, "tier": "utilities", "peers": 16}, "pairs = 9: must be from 1 to 8"),
        ({"match": "oracle"}, "match = 'oracle': nobody knows what real lessons are worth"),
        ({"match": "central", "tier": "utilities"}, "knexa.match = 'central': tier utilities has"),
        ({"match": "central", "tier": "llm"}, "knexa.match = 'central': texts have no mean"),
        ({"noisy": 7}, "knexa.noisy = 7: there are only 6 peers"),
        ({"widths": "8,x"}, "knexa.widths = '8,x': must be at most 6 whole numbers"),
        ({"asked": 41}, "asked = 41: must be from 1 to the 40 inputs of transfer"),
        ({"transfer": 5000}, "knexa.transfer: 5030 public samples with the probe"),
        ({"reward": "loss"}, "reward = 'loss': is measured on samples that peers hold out"),
        ({"data": "text"}, "knexa.data: text has no classes"),
        ({"tier": "llm", "public": "csv"}, "knexa.public = 'csv': is one of the private topics"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


LLM = dict(window=24, length=4, rank=2, steps=2, lesson_steps=2, samples=16, transfer=6, asked=2, probe=2, lr=0.01)


def test_language_models_teach_each_other_by_text(llama_folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        records, experiment = run("llm", llm=str(llama_folder), **LLM)
    said = [record.data["text"] for record in records if record.kind == "event"]
    assert len(said) == 4
    assert all("teaches peer" in text for text in said)
    table = next(record.data for record in records if record.data.get("type") == "table")
    assert len(table["rows"]) == 4
    assert experiment.shards.classes.tolist() == (4 * torch.eye(4)).long().tolist()
    assert experiment.models[0][0].size < 2000
    assert rounds(records)[-1]["loss"] < rounds(records)[0]["loss"] + 0.1


def test_public_text_must_suffice(llama_folder):
    with pytest.raises(ConfigError, match=r"knexa\.transfer = 99999: with the probe more than"):
        RECIPE.build({**LLM, "llm": str(llama_folder), "transfer": 99999}, "llm")
