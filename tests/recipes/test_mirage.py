import pytest
import torch

from hubless import catalogue
from hubless.claims import Result
from hubless.errors import ConfigError
from hubless.learn.attacks import hostile
from hubless.recipes.learning import mirage as module
from hubless.report.figures import figures

RECIPE = catalogue.find("mirage").load()


def run(**options):
    return list(RECIPE.build({"threads": 1, **options}, "tiny").records())


def success(records, metric="attack_success"):
    return {r.round: r.metrics[metric] for r in records if r.kind == "round" and metric in r.metrics}


@pytest.mark.parametrize("method", ["mirage", "vanilla", "vanilla-shared", "none"])
def test_every_method_attacks_in_its_window(method):
    records = run(method=method, before=2, attacked=2, after=2)
    assert [r.round for r in records if r.kind == "round"] == [1, 2, 3, 4, 5, 6]
    assert list(success(records)) == ([] if method == "none" else [3, 4, 5, 6])
    assert records[0].data["hostile"] == ([] if method == "none" else hostile(RECIPE.build({}, "tiny").attack, 5, 0))
    for metric in success(records).values():
        assert 0 <= metric <= 1


def test_before_the_attack_hostile_peers_are_honest():
    losses = [[r.metrics["loss"] for r in run(method=method, before=3) if r.kind == "round"] for method in
              ("none", "mirage")]  # fmt: skip
    assert losses[0][:3] == pytest.approx(losses[1][:3], abs=1e-5)
    assert losses[0][3] != pytest.approx(losses[1][3], abs=1e-4)


def test_attackers_want_a_class_each_or_all_the_same():
    targets = {method: RECIPE.build(dict(method=method), "tiny").attack.targets for method in
               ("mirage", "vanilla", "vanilla-shared")}  # fmt: skip
    assert targets == {"mirage": tuple(range(10)), "vanilla": tuple(range(10)), "vanilla-shared": (0,)}


def test_vanilla_is_mirage_without_a_search():
    assert success(run(method="vanilla")) == success(run(search=0))
    assert success(run(method="vanilla")) != success(run())


def test_star_and_rotating_give_the_same():
    star, rotating = (success(run(overlay=overlay)) for overlay in ("star", "rotating"))
    assert star == pytest.approx(rotating, abs=0.02)  # rows differ by rounding, and a sample may change sides


@pytest.mark.parametrize(
    "options",
    [
        dict(overlay="gossip", topology="ring"),
        dict(overlay="gossip", merge="multi-krum:f=1"),
        dict(merge="multi-krum:f=1"),
        dict(overlay="rotating", merge="median"),
        dict(codec="float16", participants=3),
        dict(kind="patch", alpha=1.0, search_batch=16, every=1),
        dict(model="cnn-bn"),
        dict(attackers=0),
        dict(faults="crash:20%@2,loss:0.1"),
    ],
    ids=str,
)
def test_it_goes_with_the_other_slots(options):
    assert run(**options)[-1].metrics["loss"] > 0


def test_triggers_are_drawn_when_the_attack_ends():
    records = run(before=1, attacked=2, after=2)
    (drawn,) = [record for record in records if record.kind == "figure"]
    assert drawn.round == 3
    assert drawn.data["captions"] == ["peer 2", "to class 0", "peer 4", "to class 1"]
    assert torch.tensor(drawn.data["images"]).shape == (4, 8, 8)
    assert any(figure.name == "triggers" and "<svg" in figure.svg for figure in figures(records))
    assert not [r for r in run(data="mnist1d", model="mlp:8", samples=300) if r.kind == "figure"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attackers": 5}, "mirage.attackers = 5: must be fewer than the 5 peers"),
        ({"alpha": 1.5}, r"attack.alpha = 1.5: must be in \(0, 1\]"),
        ({"alpha": 0}, "mirage.alpha = 0"),
        ({"ratio": 2}, r"attack.ratio = 2: must be in \(0, 1\]"),
        ({"method": "a3fl"}, "method = 'a3fl'"),
        ({"partition": "shards:1"}, "attack: peer 2 has no sample of its target, class 0"),
        ({"merge": "multi-krum:f=3"}, "merge.f = 3"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


class Lab:
    """Tiny runs in place of the claims' own."""

    seeds = (0,)

    def runs(self, **arms):
        small = {**module.presets["tiny"], "peers": 9, "samples": 500, "threads": 1, "evaluate": 1}
        found = {}
        for arm, options in arms.items():
            given = {**options, **small}
            found[arm] = [Result("mirage", RECIPE.resolve(given), list(RECIPE.build(given).records()))]
        return found


def test_claims_read_the_last_round_of_the_attack():
    rows = [row for claim in module.claims for row in claim.check(Lab())]
    assert sum(row.held is not None for row in rows) == 8
    assert all(len(row.values) == 1 for row in rows)
    mean = success(Lab().runs(arm={})["arm"][0].records)
    assert rows[0].values == [mean[3]]
