import pytest
import torch

from hubless import catalogue
from hubless.claims import Result
from hubless.errors import ConfigError
from hubless.learn.codecs import Raw

RECIPE = catalogue.find("fedzip").load()


def run(**options):
    experiment = RECIPE.build(options, "tiny")
    return list(experiment.records()), experiment.snapshot().tensors["cohort.0/rows"][0]


def uploaded(records):
    return [sum(record.peers["bytes"][1:]) for record in records if record.kind == "round"]


def test_a_tiny_run_is_the_same_twice_and_learns():
    first, second = (run(seed=2, rounds=12, steps=8)[0] for _ in range(2))
    assert [r.line() for r in first] == [r.line() for r in second]
    assert first[-1].metrics["accuracy"] > 0.5


def test_without_a_codec_it_is_fedavg():
    fedavg = catalogue.find("fedavg").load()
    options = dict(peers=4, data="digits", samples=200, model="mlp:16", rounds=3, steps=4, batch=10, partition="iid")
    experiment = fedavg.build(options)
    list(experiment.records())
    assert torch.allclose(run(codec="raw")[1], experiment.snapshot().tensors["cohort.0/rows"][0], atol=1e-6)


def test_uploads_are_the_real_bytes_of_updates_and_nothing_else():
    records, row = run(codec="raw")
    assert uploaded(records) == [t * 3 * Raw().length({"w": row}) for t in (1, 2, 3)]
    fewer, _ = run(codec="fedzip:0.2")
    assert uploaded(fewer)[-1] < uploaded(records)[-1] / 8
    whole = records[-2].peers["bytes"][0]
    assert whole <= fewer[-2].peers["bytes"][0] < 1.03 * whole, "the model goes out as it is, a tensor a layer"
    result = [Result("fedzip", {}, fewer)]
    from hubless.recipes.learning import fedzip

    assert fedzip._uploaded(result) == uploaded(fewer)[-1:]
    assert fedzip._ratio({"raw": [Result("fedzip", {}, records)], "it": result}, "it")[0] > 8


@pytest.mark.parametrize("codec", ["fedzip:0.2", "error-feedback+fedzip:0.1"])
def test_a_rotating_aggregator_gives_the_same_model(codec):
    """The aggregator's own update goes through the codec like the others, wherever the role is."""
    assert torch.allclose(run(codec=codec)[1], run(codec=codec, aggregator="rotating")[1], atol=1e-6)


def test_a_higher_share_is_nearer_to_no_codec_and_error_feedback_helps():
    exact = run(codec="raw", rounds=8)[1]
    gaps = [float((run(codec=codec, rounds=8)[1] - exact).norm())
            for codec in ("fedzip:0.5", "fedzip:0.02", "error-feedback+fedzip:0.02")]  # fmt: skip
    assert gaps[0] < gaps[2] < gaps[1]


@pytest.mark.parametrize(
    "options",
    [
        dict(merge="median", attack="sign-flip:25%"),
        dict(merge="trimmed-mean:0.3", codec="top-k:0.1+zstd", faults="loss:0.2"),
        dict(merge="server:adam:0.01", codec="error-feedback+fedzip:0.1", participants=3),
        dict(model="cnn-bn", data="digits", codec="fedzip:0.2"),
        dict(codec="uniform:8+huffman", aggregator="rotating", faults="crash:25%@2"),
    ],
)
def test_it_goes_together_with_other_parts(options):
    records, row = run(**options)
    assert torch.isfinite(row).all()
    assert records[-1].metrics.get("rejected", 0) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codec": "fedzip:0"}, "z = '0'"),
        ({"codec": "fedzip:1.5"}, "z = '1.5'"),
        ({"codec": "fedzip:0.2:way=morse"}, "way = 'morse'"),
        ({"codec": "fedzip:0.2+zstd"}, "both make the bytes"),
        ({"codec": "fedzap:0.2"}, "did you mean 'fedzip'"),
        ({"rounds": 0}, "rounds = 0"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ConfigError, match=words):
        RECIPE.build(options, "tiny")
