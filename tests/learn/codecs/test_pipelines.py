"""Any stages in any order: a message comes back whole, its facts untouched, and hostile bytes are refused."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, MODEL, PATIENT, at, update

import hubless.testing as testing
from hubless.errors import CodecError, ConfigError
from hubless.learn import SGD, Attack, Codec, Gossip, Learning, ServerOpt, Stage, Star, Workload
from hubless.parts import make

STAGES = ["layers", "top-k:0.2", "threshold:0.001", "k-means:4", "uniform:6", "stochastic:3", "float16", "bfloat16",
          "error-feedback", "bits:12"]  # fmt: skip
ENDS = ["raw", "huffman", "deflate", "zstd", "fedzip:0.1"]


@st.composite
def pipelines(draw):
    stages = draw(st.lists(st.sampled_from(STAGES), max_size=4))
    if stages.count("error-feedback") > 1:
        stages = [stage for stage in stages if stage != "error-feedback"]
    return "+".join([*stages, draw(st.sampled_from(ENDS))])


def states(codec):
    found = dict(MODEL.state())
    for stage in codec.stages:
        found |= stage.init(MODEL)
    return found


@PATIENT
@example("layers+error-feedback+layers+raw", 0, "delta", "any")
@given(pipelines(), st.integers(0, 99), st.sampled_from(["delta", "model"]), st.sampled_from(["any", "zero", "equal"]))
def test_a_message_comes_back_with_its_names_types_and_shapes(spec, seed, kind, values):
    codec, m, ctx = make("codec", spec), update(seed), at(seed, kind)
    for name in MODEL.groups:
        if values != "any":
            m[name] = torch.full_like(m[name], 0.0 if values == "zero" else 0.25)
    data, s = codec.encode(m, states(codec), ctx)
    heard = codec.decode(data, ctx)
    assert heard.keys() == m.keys()
    for name, value in m.items():
        assert heard[name].shape == value.shape
        assert heard[name].dtype == value.dtype
        assert torch.isfinite(heard[name]).all()
    assert torch.equal(heard["seen"], m["seen"])
    assert s.keys() == states(codec).keys()


@FEW
@given(pipelines(), st.data())
def test_lies_behind_a_good_checksum_are_a_message_or_refused(spec, data):
    codec, ctx = make("codec", spec), at(1)
    packed = codec.packer.unpack(codec.encode(update(), states(codec), ctx)[0])
    names = list(packed)
    for _ in range(data.draw(st.integers(1, 3))):
        name, other = (data.draw(st.sampled_from(names)) for _ in range(2))
        value = packed.get(other, torch.zeros(0))
        if data.draw(st.booleans()) and value.numel():
            value = value.clone().flatten()
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 100))
        packed[name] = value
    try:
        codec.decode(codec.packer.pack(packed), ctx)
    except CodecError:
        return


@PATIENT
@given(st.sampled_from([*STAGES, *ENDS, "top-k:0.2+float16+zstd", "error-feedback+fedzip:0.1"]), st.binary(max_size=64))
def test_arbitrary_bytes_are_refused(spec, data):
    with pytest.raises(CodecError):
        make("codec", spec).decode(data, at(1))


@pytest.mark.parametrize(
    "spec",
    ["layers+top-k:0.3+float16+zstd", "top-k:0.3+uniform:4+huffman", "k-means:4+deflate", "stochastic:2+bits:9",
     "uniform:8+huffman", "bfloat16+zstd", "threshold:0.1+k-means:3"],
)  # fmt: skip
def test_conformance(spec):
    for kind in ("model", "delta"):
        testing.check_codec(spec, kind=kind)


def test_stages_see_the_kind_that_they_want():
    codec = make("codec", "top-k:0.1+float16")
    m = update()
    sizes = {kind: len(codec.encode(m, {}, at(1, kind))[0]) for kind in ("model", "delta")}
    assert sizes["delta"] < 0.7 * sizes["model"]
    for spec in ("top-k:0.1", "threshold:0.1", "k-means:3", "error-feedback", "fedzip"):
        with pytest.raises(ConfigError, match="takes a delta, but merge Mean"):
            make("codec", spec).check({"gossip": "model"}, "Mean")
        make("codec", spec).check({"down": "model", "up": "delta"}, "ServerOpt")
    make("codec", "uniform:8+zstd").check({"gossip": "model"}, "Mean")


@pytest.mark.parametrize(
    "codec",
    ["float16", "top-k:0.3+float16+zstd", "layers+threshold:0.001+huffman", "uniform:8", "stochastic:6+zstd",
     "error-feedback+top-k:0.1", "error-feedback+fedzip:0.3", "k-means:8"],
)  # fmt: skip
def test_a_population_learns_through_them(codec):
    workload = Workload("digits", "iid", 4, "mlp:16", 200)
    learning = Learning(workload, SGD(lr=0.3, steps=5, batch=20), Star(), ServerOpt(), codec=codec, rounds=6)
    plain = Learning(workload, SGD(lr=0.3, steps=5, batch=20), Star(), ServerOpt(), rounds=6)
    last, reference = (list(one.under(one.setting).records())[-1] for one in (learning, plain))
    assert last.metrics["accuracy"] > 0.5 * reference.metrics["accuracy"]
    assert last.metrics["bytes"] < reference.metrics["bytes"]
    assert "rejected" not in last.metrics


@dataclass(frozen=True)
class Blown(Attack):
    def message(self, m, honest, book, ctx):
        return {name: value * torch.inf for name, value in m.items()}


@pytest.mark.parametrize(
    ("overlay", "merge", "codec"),
    [(Star(), ServerOpt(), "fedzip:0.2"), (Star(), ServerOpt(), "raw"), (Gossip("full"), "mean", "uniform:8")],
)
def test_a_message_that_cannot_be_coded_is_dropped_and_counted(overlay, merge, codec):
    workload = Workload("digits", "iid", 4, "mlp:8", 100)
    learning = Learning(workload, SGD(lr=0.1, steps=2, batch=10), overlay, merge, codec, Blown((2,)), rounds=3)
    records = list(learning.under(learning.setting).records())
    assert records[-1].metrics["rejected"] == 3 * (1 if overlay == Star() else 3)
    assert any("peer 2" in r.data["text"] and "not finite" in r.data["text"] for r in records if r.kind == "event")


def test_the_same_stage_twice_draws_apart():
    twice, once = (make("codec", spec) for spec in ("stochastic:2+float16", "float16+stochastic:2"))
    m = {"x": torch.linspace(0, 1, 50)}
    assert not torch.equal(*(codec.decode(codec.encode(m, {}, CONTEXT)[0], CONTEXT)["x"] for codec in (twice, once)))


class Trusting(Stage):
    def forward(self, m, s, ctx):
        return {"half": m["w"][::2], "other": m["w"][1::2], **{n: v for n, v in m.items() if n != "w"}}, s

    def inverse(self, m, count, ctx):
        w = torch.empty(ctx.model.size)
        w[::2], w[1::2] = m["half"], m["other"]
        return {"w": w, **{n: v for n, v in m.items() if n not in ("half", "other")}}


class Rounding(Stage):
    def forward(self, m, s, ctx):
        return {name: (value / 2).to(value.dtype) for name, value in m.items()}, s

    def inverse(self, m, count, ctx):
        return {name: value * 2 for name, value in m.items()}


class Flat(Stage):
    def forward(self, m, s, ctx):
        return {name: value - value.flatten()[0] / value.std() for name, value in m.items()}, s


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Trusting(), "a sender's lie about 'half' .* raises KeyError.*must check what it is given"),
        (Rounding(), "changes 'seen'"),
        (Flat(), "numbers that are not finite"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_conformance_check_finds_stages_that_trust_their_input(stage, words):
    with pytest.raises(AssertionError, match=words):
        testing.check_codec(Codec((stage,)))
