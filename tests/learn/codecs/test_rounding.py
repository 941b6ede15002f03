import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, DELTA, PATIENT, at, same, update

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import Half, Stochastic, Uniform
from hubless.parts import make


def through(codec, m, ctx=DELTA):
    data, _ = codec.encode(m, {}, ctx)
    return codec.decode(data, ctx), len(data)


@PATIENT
@given(st.integers(1, 16), st.integers(0, 40), st.integers(0, 1000), st.sampled_from(["uniform", "stochastic"]))
def test_no_number_moves_further_than_a_step(bits, count, seed, name):
    x = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    heard, _ = through(make("codec", f"{name}:{bits}"), {"x": x})
    assert heard["x"].dtype == torch.float32
    if count:
        step = float(x.max() - x.min()) / ((1 << bits) - 1)
        limit = step / 2 if name == "uniform" else step
        assert float((heard["x"] - x).abs().max()) <= limit * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("codec", ["uniform:8", "stochastic:1", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(0,), (1,), (), (2, 3), (3, 0)])
def test_constant_tensors_are_exact(codec, shape):
    m = {"x": torch.full(shape, 0.375), "zero": torch.zeros(shape)}
    heard, _ = through(make("codec", codec), m)
    assert same(heard, m)


def test_stochastic_rounding_is_right_on_average():
    x = torch.linspace(-1, 1, 41) ** 3
    stage, draws = Stochastic(2), 1500
    total = torch.zeros(41, dtype=torch.float64)
    for t in range(draws):
        coded, _ = stage.forward({"x": x}, {}, at(t))
        total += stage.inverse(coded, 1, at(t))["x"].double()
    step = 2 / 3
    assert float((total / draws - x).abs().max()) < 5 * step / 2 / draws**0.5
    first, again, other = (stage.forward({"x": x}, {}, at(t))[0]["x/levels"] for t in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    both = stage.forward({"x": x, "y": x}, {}, at(1))[0]
    assert not torch.equal(both["x/levels"], both["y/levels"]), "tensors of a message draw apart"


def test_levels_cost_their_bits():
    m = {"x": torch.randn(8000, generator=torch.Generator().manual_seed(2))}
    sizes = [through(make("codec", f"uniform:{bits}"), m)[1] for bits in (1, 4, 8, 16)]
    assert [size - sizes[0] for size in sizes[1:]] == pytest.approx([3000, 7000, 15000], abs=4)


def test_statistics_are_rounded_and_facts_are_not():
    m = update()
    for spec in ("uniform:8", "stochastic:8", "float16", "bfloat16"):
        heard, _ = through(make("codec", spec), m, CONTEXT)
        assert list(heard) == list(m)
        assert torch.equal(heard["seen"], m["seen"])
        assert all(torch.allclose(heard[name].double(), m[name].double(), atol=0.02) for name in m)
    exact = {"x": torch.tensor([1 / 3], dtype=torch.float64)}
    assert same(through(make("codec", "uniform:2+float16"), exact)[0], exact)


def test_the_range_keeps_its_digits_under_float16():
    m = {"x": torch.tensor([1000.0, 1000.1, 1000.2])}
    heard, _ = through(make("codec", "uniform:8+float16"), m)
    assert torch.allclose(heard["x"], m["x"], atol=1e-3)


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_half_rounds_to_nearest_and_does_not_overflow(dtype, digits):
    x = torch.tensor([1 / 3, -1e38, 1e38, 65519.0, 0.0, 1.0])
    heard = Half(dtype).inverse(Half(dtype).forward({"x": x}, {}, DELTA)[0], 1, DELTA)["x"]
    assert torch.isfinite(heard).all()
    assert abs(float(heard[0]) - 1 / 3) <= 2.0 ** -(digits + 1) / 2
    assert heard[4:].tolist() == [0, 1]
    assert heard[1] == -torch.finfo(dtype).max or dtype == torch.bfloat16
    bad = Half(dtype).forward({"x": torch.tensor([torch.nan, torch.inf])}, {}, DELTA)[0]["x"]
    assert not torch.isfinite(bad).any(), "what blew up must not look sound"


def test_refusals():
    for spec in ("uniform:0", "uniform:17", "stochastic:0", "uniform:2.5"):
        with pytest.raises(ConfigError, match="bits"):
            make("codec", spec)
    with pytest.raises(ConfigError, match="Stochastic: bits = 17"):
        Stochastic(17)
    with pytest.raises(CodecError, match="x is not finite"):
        Uniform(8).forward({"x": torch.tensor([torch.nan])}, {}, DELTA)
    coded, _ = Uniform(8).forward({"x": torch.arange(3.0)}, {}, DELTA)
    levels, span = coded["x/levels"], coded["x/range"]
    for parts in ((levels.float(), span), (levels, span.float()), (levels, span[:1]), (levels, span[None])):
        with pytest.raises(CodecError, match="wrong type"):
            Uniform(8).inverse({"x/levels": parts[0], "x/range": parts[1]}, 1, DELTA)
