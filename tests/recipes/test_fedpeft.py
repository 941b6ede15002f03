from dataclasses import dataclass, replace

import pytest
import torch

from hubless import catalogue
from hubless.errors import ConfigError
from hubless.learn import Attack, Model
from hubless.learn.codecs.stamped import STAMP, Stamped

RECIPE = catalogue.find("fedpeft").load()
WAYS = ("head", "bias", "prompt", "adapter", "lora", "full", "scratch")
SMALL = ("head", "bias", "prompt", "adapter", "lora")


def build(attack=None, codec=None, **options):
    """A tiny run; one peer after another, which needs no tracing."""
    experiment = RECIPE.build(options, "tiny")
    learning = replace(experiment.asked, kernel="loop")
    learning = replace(learning, attack=attack or learning.attack, codec=codec or learning.codec)
    return learning.under(experiment.setting)


def finish(experiment):
    """Records, and the rows in the end."""
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"]


def rounds(records, metric):
    return [r.metrics.get(metric) for r in records if r.kind == "round"]


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_tuned_is_sent(way):
    experiment = build(tune=way)
    model, wholes = experiment.models[0][0], build(tune="full").models[0][0].size
    records, rows = finish(experiment)
    first = next(r.metrics for r in records if r.kind == "round")
    said = first["bytes"] / first["messages"]
    stamp = 8 if way in SMALL else 0
    header = said - 4 * model.size - stamp
    assert 0 < header < 120
    assert rows.shape == (1, model.size)
    assert (model.size < wholes / 2) == (way in SMALL)
    assert not rounds(records, "rejected")[-1]
    tuned = {word for name in model.names for word in ("prompt", "adapter", "lora") if word in name}
    assert tuned == ({way} & {"prompt", "adapter", "lora"})
    if way == "bias":
        assert all(name.endswith("bias") or name.startswith("head") for name in model.names)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_the_same_twice(way):
    first, second = (finish(build(tune=way, seed=3))[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]


def test_all_start_from_the_backbone_and_one_head():
    models = {way: build(tune=way).models[0][0] for way in WAYS}
    body = models["full"].unflatten(models["full"].start(7))
    for way in SMALL:
        assert all(torch.equal(value, body[name]) for name, value in models[way].frozen.items() if name in body)
        started = models[way].unflatten(models[way].start(7))
        assert torch.equal(started["head.weight"], body["head.weight"])
        assert body["head.weight"].shape == (10, 8)
    fresh = models["scratch"].unflatten(models["scratch"].start(7))
    assert not torch.equal(fresh["token.weight"], body["token.weight"])


def test_the_backbone_stays_as_it_is():
    experiment = build(tune="bias")
    before = {name: value.clone() for name, value in experiment.models[0][0].frozen.items()}
    _, rows = finish(experiment)
    model = experiment.models[0][0]
    assert all(torch.equal(value, before[name]) for name, value in model.frozen.items())
    assert not torch.allclose(rows[0], model.start(0), atol=1e-4)


def test_peers_have_other_classes_than_the_backbone():
    shards = build().shards
    assert shards.y[shards.flat].unique().tolist() == list(range(5, 10))
    assert shards.test_y.unique().tolist() == list(range(5, 10))


def test_no_hub():
    star, rotating = (finish(build(aggregator=kind))[1] for kind in ("star", "rotating"))
    torch.testing.assert_close(star, rotating, atol=1e-5, rtol=0)


@dataclass(frozen=True)
class Spoilt(Attack):
    """Says something else, and means no harm by its numbers."""

    how: str = ""

    def message(self, m, honest, book, ctx):
        model: Model = ctx.model
        frozen = next(iter(model.frozen))
        longer = torch.cat([m["w"], torch.zeros(8)])
        return {
            "frozen": {**m, frozen: model.frozen[frozen]},
            "unknown": {**m, "more": torch.zeros(2)},
            "missing": {},
            "longer prompt": {"w": longer},
            "text": {"w": m["w"].to(torch.int32)},
        }[self.how]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("frozen", "cls is frozen"),
        ("unknown", "more is not known"),
        ("missing", "w is missing"),
        ("longer prompt", "w has shape"),
        ("text", "w is torch.int32"),
    ],
)
def test_messages_of_anything_else_are_dropped_and_counted(how, words):
    experiment = build(Spoilt((1,), how), tune="prompt", participants=0)
    records, rows = finish(experiment)
    assert rounds(records, "rejected") == [1, 2, 3]
    assert any(words in str(r.data.get("text")) for r in records)
    assert torch.isfinite(rows).all()


def test_a_peer_with_another_backbone_is_refused():
    @dataclass(frozen=True)
    class Mixed(Stamped):
        """Peer 1 has been given another backbone."""

        def forward(self, m, s, ctx):
            own = {name: value + (int(ctx.peer) == 1) for name, value in ctx.model.frozen.items()}
            return {**m, STAMP: self._digest(list(own), own)}, s

    codec = build().learning.codec
    codec = replace(codec, stages=(Mixed(codec.stages[0].agreed),))
    records, _ = finish(build(codec=codec, tune="head", participants=0))
    assert rounds(records, "rejected") == [1, 2, 3]
    assert any("frozen parameters are others" in str(r.data.get("text")) for r in records)


@pytest.mark.parametrize(
    "options",
    [
        dict(codec="float16"),
        dict(codec="delta+top-k:0.2+zstd"),
        dict(codec="secure-sum", weigh="one", participants=3),
        dict(merge="median"),
        dict(merge="server:adam:0.01"),
        dict(attack="sign-flip:25%"),
        dict(trainable="bias"),
        dict(personal="head"),
        dict(partition="iid", epochs=1),
        dict(pretrain="digits/0-3+digits/4", classes="all"),
    ],
    ids=str,
)
def test_other_slots_work(options):
    records, rows = finish(build(**options))
    assert torch.isfinite(rows).all()
    assert not rounds(records, "rejected")[-1]
    assert 0 <= records[-1].metrics["accuracy"] <= 1


def test_noise_is_accounted_for_and_what_a_round_changes_is_bounded():
    options = dict(weigh="one", tune="head", participants=0, rounds=1)
    still, clipped = (
        finish(build(privacy=privacy, lr=lr, **options))[1] for privacy, lr in (("none", 1e-9), ("central:0.01:0", 0.1))
    )
    assert 0 < float((clipped - still).norm()) <= 0.01 + 1e-5
    records, noised = finish(build(privacy="central:1:2", **options))
    assert float((noised - still).norm()) > 1
    assert rounds(records, "epsilon")[-1] > 0
    (table,) = [r.data for r in records if r.data.get("name") == "tradeoff"]
    assert (table["rows"][0][0], table["rows"][0][-1]) == ("head", rounds(records, "epsilon")[-1])


def test_the_report_says_what_each_way_sends():
    records, _ = finish(build(tune="lora"))
    (said,) = [r.data for r in records if r.data.get("name") == "said"]
    sizes = {row[0]: row[1] for row in said["rows"]}
    assert sizes == {way: build(tune=way).models[0][0].size for way in WAYS if way != "scratch"}
    assert [row[3] for row in said["rows"]][-1] == "100.0 %"
    (table,) = [r.data for r in records if r.data.get("name") == "tradeoff"]
    last = records[-1].metrics
    assert table["rows"][0][2] == last["bytes"] / last["messages"]
    assert table["rows"][0][-1] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"privacy": "central:0:0.3", "weigh": "one"}, "privacy.clip = 0: must be positive"),
        ({"privacy": "central:1:0.3"}, "central needs equal weights"),
        ({"merge": "bristle"}, "Bristle says more than parameters"),
        ({"tune": "everything"}, "tune = 'everything'"),
        ({"tune": "prompt", "prompts": 0}, "prompts = 0"),
        ({"classes": "5-10"}, "fedpeft.classes = '5-10': must be different labels of digits, 0 to 9"),
        ({"pretrain": "digits/x"}, "fedpeft.pretrain = 'x': must be labels"),
        ({"pretrain": "synthetic"}, r"cls|samples of shape|takes images"),
        ({"model": "mlp:8", "tune": "prompt"}, "takes no prompt"),
        ({"model": "mlp:8"}, "no plain linear layer"),
        ({"lr": -0.1}, "lr = -0.1"),
        ({"data": "linear"}, "has no classes"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")


def test_a_language_model_is_tuned_by_its_own_lora(llama_folder):
    given = dict(data=f"tokens:{llama_folder}:8:csv", model=f"hf:{llama_folder}:2", samples=24)
    experiment = RECIPE.build(given, "llm")
    model = experiment.models[0][0]
    assert all("lora" in name for name in model.names)
    records = list(experiment.records())
    end = records[-1].metrics
    assert end["bytes"] < end["messages"] * (4 * model.size + 400)
    assert end["bytes"] > end["messages"] * (4 * model.size + 8)
    assert next(r.data["rows"] for r in records if r.data.get("name") == "said")[0][:2] == ["lora", model.size]
    with pytest.raises(ConfigError, match=r"fedpeft\.tune = 'bias': a language model of a folder is tuned by lora"):
        RECIPE.build({**given, "tune": "bias"}, "llm")
