from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, FEW, MODEL, update

from hubless.errors import CodecError, ConfigError
from hubless.learn import keys
from hubless.learn.secure.fixed_point import FACTS, WIDE, FixedPoint
from hubless.parts import make


def context(peer, group):
    return replace(CONTEXT, peer=peer, group=group, secret=keys.fold(6, peer))


@FEW
@given(st.integers(1, 30), st.integers(10, 40), st.floats(0.1, 100))
def test_sums_decode_to_the_mean_and_never_overflow(count, bits, scale):
    stage, group = FixedPoint(bits, 8.0), tuple(range(count))
    said = [update(peer, scale) for peer in group]
    coded = [stage.forward(m, {}, context(peer, group))[0] for peer, m in enumerate(said)]
    total = {name: sum(m[name] for m in coded) for name in coded[0] if name.endswith("/fixed")}
    heard = stage.inverse(total, count, context(0, group))
    for name, part in MODEL.groups.items():
        assert int(total[f"{name}/fixed"].max()) < 1 << bits
        assert int(min(m[f"{name}/fixed"].min() for m in coded)) >= 0
        mean = torch.stack([m[name].clamp(-8, 8) for m in said]).mean(0)
        assert heard[name].shape == (part.stop - part.start,)
        assert float((heard[name] - mean).abs().max()) <= 8 / stage.steps(count) + 1e-5
    for name in heard.keys() - MODEL.groups.keys():
        mean = torch.stack([m[name] for m in said]).mean(0)
        assert float((heard[name] - mean).abs().max()) <= WIDE / stage.steps(count, FACTS) + 1e-6


def test_rounding_is_right_on_average():
    stage, m = FixedPoint(4, 1.0), {"head": torch.full((20000,), 0.3)}
    coded, _ = stage.forward(m, {}, context(0, ()))
    heard = stage.inverse(coded, 1, context(0, ()))["head"]
    assert len(heard.unique()) == 2
    assert abs(float(heard.mean()) - 0.3) < 4 * float(heard.std()) / 20000**0.5


def test_what_is_out_of_range_is_clipped_and_no_number_counts_as_zero():
    stage = FixedPoint(32, 2.0)
    m = {"head": torch.tensor([5.0, -5.0, torch.inf, -torch.inf, torch.nan, 2.0])}
    heard = stage.inverse(stage.forward(m, {}, context(0, (0,)))[0], 1, context(0, (0,)))["head"]
    assert torch.allclose(heard, torch.tensor([2.0, -2.0, 2.0, -2.0, 0.0, 2.0]), atol=1e-6)
    huge = {"head": torch.tensor([WIDE * 4]), "buffer": torch.tensor([WIDE * 4])}
    coded, _ = FixedPoint(FACTS, 2.0**20).forward(huge, {}, context(0, (0,)))
    assert all(int(value.max()) < 1 << FACTS for value in coded.values())


def test_integers_pass():
    m = {"head": torch.arange(3), "seen": torch.tensor([1 << 40])}
    assert FixedPoint().forward(m, {}, CONTEXT)[0] == m


@pytest.mark.parametrize(
    "value", [torch.tensor([-1]), torch.tensor([1 << 32]), torch.tensor([1], dtype=torch.int32), torch.tensor([0.5])]
)
def test_sums_that_nobody_can_have_sent(value):
    with pytest.raises(CodecError, match="head"):
        FixedPoint().inverse({"head/fixed": value}, 2, context(0, (0, 1)))


def test_packed_by_bits_it_is_a_quantiser():
    codec, m = make("codec", "fixed-point:8:1+bits:8"), {"head": torch.linspace(-1, 1, 1000)}
    data, _ = codec.encode(m, {}, CONTEXT)
    assert len(data) < 1000 + 100
    assert float((codec.decode(data, CONTEXT)["head"] - m["head"]).abs().max()) <= 1 / 127


@pytest.mark.parametrize(
    ("given_", "said"),
    [(dict(bits=1), "fixed-point.bits = 1: must be from 2 to 56"), (dict(range=0.0), "fixed-point.range = 0: must be")],
)
def test_values_are_checked(given_, said):
    with pytest.raises(ConfigError, match=said):
        FixedPoint(**given_)
