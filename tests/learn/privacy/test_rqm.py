import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.context import Context
from hubless.learn.model import Model
from hubless.learn.privacy import RQM, Clip, Rounding, calibrate
from hubless.learn.privacy.rqm import enumerated
from hubless.learn.wiring import NoSlope
from hubless.models.zoo import softmax
from hubless.parts import make
from hubless.testing import check_codec

MODEL = Model(lambda: softmax()((4,), 3))
DRAWS = 200_000


def context(**more):
    return Context(t=1, N=2, model=MODEL, slope=NoSlope(), kind="delta", key=1, secret=2, **more)


mechanisms = st.builds(RQM, st.integers(2, 9), st.just(1.5), st.floats(0.05, 4), st.floats(0.02, 0.98))
inputs = st.floats(-1.5, 1.5)


@settings(max_examples=60)
@given(mechanisms, inputs)
def test_probabilities_are_those_of_the_enumeration(mechanism, x):
    assert np.abs(mechanism.pmf(x) - enumerated(mechanism, x)).max() <= 1e-12


@given(st.builds(RQM, st.integers(2, 64), st.just(1.5), st.floats(0.05, 4), st.floats(0.02, 0.98)), inputs)
def test_decoding_is_unbiased_and_probabilities_sum_to_1(mechanism, x):
    pmf = mechanism.pmf(x)
    assert pmf.min() > 0
    assert abs(pmf.sum() - 1) <= 1e-12
    assert abs(pmf @ mechanism.levels() - x) <= 1e-9


@pytest.mark.parametrize("x", [-1.5, -1.0, 0.0, 0.3, 1.5])
def test_samples_agree_with_the_probabilities(x):
    mechanism = RQM(16, 1.5, 1.5, 0.42)
    z = mechanism.encode(torch.full((DRAWS,), x), keys.fold(3, "draws"))
    frequency = torch.bincount(z.long(), minlength=16).numpy() / DRAWS
    assert np.abs(frequency - mechanism.pmf(x)).max() <= 0.005
    error = math.sqrt(mechanism.variance(x) / DRAWS)
    assert abs(float(mechanism.decode(z.double()).mean()) - x) < 5 * error


def test_divergence_of_samples_is_near_the_exact_one():
    mechanism = RQM(8, 1.0, 1.0, 0.42)
    counts = []
    for end in (-1.0, 1.0):
        z = mechanism.encode(torch.full((DRAWS,), end), keys.fold(5, str(end)))
        counts.append(torch.bincount(z.long(), minlength=8).double().numpy() / DRAWS)
    for alpha in (2, 8):
        measured = math.log((counts[0] ** alpha * counts[1] ** (1 - alpha)).sum()) / (alpha - 1)
        assert measured == pytest.approx(mechanism.between(-1.0, 1.0).epsilon(alpha), rel=0.05)


def test_the_cards_values():
    mechanism = RQM(16, 1.5, 1.5, 0.42)
    assert mechanism.variance(0.0) == pytest.approx(0.548, abs=5e-4)
    assert mechanism.variance(1.5) == pytest.approx(0.485, abs=5e-4)
    assert RQM(16, 3.0, 3.0, 0.42).variance(0.0) == pytest.approx(4 * mechanism.variance(0.0))
    assert RQM(16, 1.5, 3.0, 0.57).variance(0.0) == pytest.approx(0.5625, rel=0.05)
    assert mechanism.bits == 4
    ends = mechanism.between(-1.5, 1.5)
    assert ends.epsilon(2) == pytest.approx(5.06, abs=5e-3)
    assert ends.epsilon(8, 10) == pytest.approx(3.75, abs=5e-3)


@given(st.integers(3, 32), st.floats(0.1, 3), st.floats(0.05, 0.95))
def test_calibration_finds_the_variance(m, delta, q):
    wanted = RQM(m, 1.0, delta, q).variance(0.0)
    assert calibrate(m, wanted, c=1.0, delta=delta).variance(0.0) == pytest.approx(wanted, rel=1e-6)


def test_calibration_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match=r"rqm.target_variance = 5: 16 levels at c = 1, delta = 1 give .* to 4"):
        calibrate(16, 5.0, c=1.0, delta=1.0)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_a_sum_decodes_to_the_mean_of_what_its_messages_decode_to(levels):
    mechanism = RQM(16, 0.02, 0.02, 0.42)
    z = torch.tensor(levels, dtype=torch.int16)
    each = mechanism.inverse({"w/private": z}, 1, context())["w"]
    total = mechanism.inverse({"w/private": z.sum()[None]}, len(levels), context())["w"]
    assert float(total) == pytest.approx(float(each.mean()), abs=1e-7)


def test_coordinates_are_independent_and_secret():
    mechanism = RQM(16, 1.0, 1.0, 0.42)
    m = {"w": torch.zeros(20_000), "v": torch.zeros(20_000)}
    first, _ = mechanism.forward(m, {}, context())
    again, _ = mechanism.forward(m, {}, context())
    public, _ = mechanism.forward(m, {}, replace(context(), key=5))
    other, _ = mechanism.forward(m, {}, replace(context(), secret=5))
    assert torch.equal(first["w/private"], again["w/private"])
    assert torch.equal(first["w/private"], public["w/private"])
    assert not torch.equal(first["w/private"], first["v/private"])
    assert not torch.equal(first["w/private"], other["w/private"])
    values = mechanism.decode(torch.stack([first["w/private"], first["v/private"], other["w/private"]]).double())
    assert torch.corrcoef(values).fill_diagonal_(0).abs().max() < 0.04
    assert abs(float(torch.corrcoef(torch.stack([values[0][1:], values[0][:-1]]))[0, 1])) < 0.04


def test_mapped_over_peers_it_is_the_same():
    mechanism = RQM(16, 1.0, 1.0, 0.42)
    x, secrets = torch.linspace(-1, 1, 60).reshape(3, 20), keys.bits(9, 3)
    looped = torch.stack([mechanism.encode(row, int(key)) for row, key in zip(x, secrets, strict=True)])
    assert torch.equal(torch.vmap(mechanism.encode)(x, secrets), looped)
    assert torch.equal(mechanism.encode(x, secrets), looped)


@pytest.mark.parametrize("codec", ["rqm:0.3", "rqm:0.3:m=9", "rqm:0.3:5:2:0.57"])
def test_codecs_keep_their_contract(codec):
    check_codec(codec)
    check_codec(codec, kind="delta")


def test_an_upload_has_four_bits_a_coordinate():
    codec, big = make("codec", "rqm:0.02"), Model(lambda: softmax()((1, 28, 28), 10))
    ctx = Context(t=1, N=2, model=big, slope=NoSlope(), kind="delta", key=1, secret=2)
    data, _ = codec.encode({"w": torch.zeros(7850)}, {}, ctx)
    assert len(data) - len(codec.encode({"w": torch.zeros(0)}, {}, ctx)[0]) == 7850 // 2 + len("3931") - len("6")
    heard = codec.decode(data, ctx)["w"]
    assert heard.dtype == torch.float32
    assert set(heard.tolist()) <= set(np.float32(RQM(16, 0.02, 0.02, 0.42).levels()).tolist())


def test_what_is_beyond_c_is_clipped_or_refused():
    mild, strict = (RQM(16, 0.3, 0.3, 0.42, strict=strict) for strict in (False, True))
    x = torch.tensor([-5.0, 0.1, torch.inf, torch.nan, 0.3])
    assert torch.equal(mild.encode(x, 1), mild.encode(torch.tensor([-0.3, 0.1, 0.3, 0.0, 0.3]), 1))
    with pytest.raises(ConfigError, match=r"a coordinate of 5 is beyond c = 0\.3"):
        strict.encode(torch.tensor([-5.0, 0.1]), 1)
    clipped, _ = Clip(0.3).forward({"w": torch.tensor([-5.0, 0.1, 0.3])}, {}, context())
    assert torch.equal(strict.encode(clipped["w"], 1), mild.encode(clipped["w"], 1))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((1, 1.0, 1.0, 0.5), "rqm.m = 1"),
        ((16, 1.0, 0.0, 0.5), "rqm.delta = 0: must be positive"),
        ((16, 1.0, -1.0, 0.5), "rqm.delta = -1"),
        ((16, 1.0, 1.0, 0.0), "rqm.q = 0"),
        ((16, 1.0, 1.0, 1.0), r"rqm.q = 1: must be in \(0, 1\); with every level kept"),
        ((16, 0.0, 1.0, 0.5), "clip.c = 0"),
    ],
)
def test_bad_mechanisms(values, words):
    with pytest.raises(ConfigError, match=words):
        RQM(*values)


@pytest.mark.parametrize(
    ("z", "count"),
    [(torch.tensor([16]), 1), (torch.tensor([-1]), 1), (torch.tensor([61]), 4), (torch.tensor([0.5]), 1),
     (torch.tensor([True]), 1)],
)  # fmt: skip
def test_what_nobody_can_have_sent_does_not_decode(z, count):
    with pytest.raises(CodecError):
        RQM(16, 1.0, 1.0, 0.42).inverse({"w/private": z}, count, context())


def test_the_largest_sum_decodes():
    heard = RQM(16, 1.0, 1.0, 0.42).inverse({"w/private": torch.tensor([60])}, 4, context())
    assert float(heard["w"]) == pytest.approx(2.0)


def test_facts_pass_as_they_are():
    mechanism, seen = RQM(16, 1.0, 1.0, 0.42), {"seen": torch.tensor([3])}
    said, _ = mechanism.forward({"w": torch.zeros(2), **seen}, {}, context())
    assert set(said) == {"w/private", "seen"}
    assert mechanism.inverse(said, 1, context())["seen"] is seen["seen"]


@pytest.mark.parametrize("before", ["top-k:0.1", "uniform", "rqm:0.2", "error-feedback+top-k:0.1"])
def test_no_stage_before_it_may_tell_more(before):
    with pytest.raises(ConfigError, match=r"codec: RQM cannot follow \w+, which tells what is not private"):
        make("codec", f"{before}+rqm:0.02")


@pytest.mark.parametrize("codec", ["error-feedback+rqm:0.3", "float16+rqm:0.3", "clip:0.1+rqm:0.3", "rqm:0.3+zstd"])
def test_other_stages_may_stand_beside_it(codec):
    check_codec(codec, kind="delta")


def test_before_a_secure_sum_integers_are_not_packed():
    stages = make("codec", "rqm:0.02+secure-sum").stages
    assert [type(stage).__name__ for stage in stages] == ["Clip", "RQM", "SecureSum"]
    assert type(make("codec", "rqm:0.02").stages[-1]).__name__ == "BitPack"


def test_batchnorm_is_refused():
    normed = Model(lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)))
    with pytest.raises(ConfigError, match="BatchNorm's statistics, which RQM cannot protect"):
        RQM(16, 1.0, 1.0, 0.42).init(normed)


def test_bare_rounding_is_what_is_left_with_every_level_kept():
    bare = Rounding(16, 1.0)
    x = torch.linspace(-1, 1, 1001)
    z = bare.encode(x, 4)
    assert (bare.decode(z.double()) - x).abs().max() <= 2 / 15 + 1e-6
    assert np.count_nonzero(bare.pmf(0.3)) == 2
    assert np.abs(Rounding(6, 1.0).pmf(0.3) - enumerated(Rounding(6, 1.0), 0.3)).max() <= 1e-12
