import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, DELTA, MODEL, PATIENT, same, update

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import Threshold, TopK
from hubless.learn.codecs.layout import head
from hubless.learn.codecs.sparse import found, kept, placed
from hubless.parts import make


@PATIENT
@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_positions_come_back_in_few_bits(size, share, seed):
    count = round(share * size)
    index = np.sort(np.random.default_rng(seed).permutation(size)[:count])
    data = placed(index, size)
    assert found(data, count, size).tolist() == index.tolist()
    if count:
        assert 8 * len(data) <= count * (3 + math.log2(size / count)) + 24


@PATIENT
@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 500))
def test_any_bytes_are_positions_or_refused(data, count, size):
    try:
        index = found(np.frombuffer(data, np.uint8), count, size)
    except CodecError:
        return
    assert len(index) == count
    assert (np.diff(index) > 0).all()
    assert not count or 0 <= index[0] <= index[-1] < size


def test_the_largest_are_kept_exactly_and_of_equal_ones_the_first():
    x = np.array([1, -3, 3, 0, 3, 2], np.float32)
    assert TopK(0.5).keep(x).tolist() == [1, 2, 4]
    assert TopK(1 / 3).keep(x).tolist() == [1, 2]
    assert TopK(1.0).keep(x).tolist() == list(range(6))
    assert TopK(0.01).keep(np.zeros(7, np.float32)).tolist() == [0]
    assert TopK(0.5).keep(np.zeros(0, np.float32)).tolist() == []
    assert kept(0.07, 100) == 7
    assert Threshold(2.5).keep(x).tolist() == [1, 2, 4]


@pytest.mark.parametrize("spec", ["top-k:0.1", "threshold:0.001", "layers+top-k:0.1", "top-k:0.5+top-k:0.2"])
def test_what_is_kept_is_exact_and_the_rest_is_zero(spec):
    m, codec = update(), make("codec", spec)
    data, _ = codec.encode(m, {}, DELTA)
    heard = codec.decode(data, DELTA)
    for name in MODEL.groups:
        assert set(heard[name][heard[name] != m[name]].tolist()) == {0.0}
        assert (heard[name] != 0).any()
    for name in m.keys() - MODEL.groups.keys():
        assert torch.equal(heard[name], m[name]), "statistics and facts are not for leaving out"


def test_a_kept_entry_costs_few_bits_beside_its_value():
    w = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    coded, _ = TopK(0.01).forward({"head": w}, {}, DELTA)
    assert coded["head/values"].numel() == 1000
    assert 8 * coded["head/index"].numel() < 1000 * 9


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 0), (), (3, 1), (1, 1, 2)])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_small_and_constant_tensors(shape, value):
    m = {"head/x": torch.full(shape, value)}
    for spec in ("top-k:1", "threshold:0", "top-k:0.1"):
        codec = make("codec", spec)
        heard = codec.decode(codec.encode(m, {}, DELTA)[0], DELTA)
        assert heard["head/x"].shape == m["head/x"].shape
        assert same(heard, m) or spec == "top-k:0.1"


def test_a_model_is_left_alone():
    m, codec = update(), make("codec", "top-k:0.1")
    assert same(codec.decode(codec.encode(m, {}, CONTEXT)[0], CONTEXT), m)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite(bad):
    with pytest.raises(CodecError, match="head is not finite"):
        TopK(0.1).forward({"head": torch.tensor([0.1, bad])}, {}, DELTA)


def index(shape, data):
    return torch.frombuffer(bytearray(head(torch.float32, shape) + bytes(data)), dtype=torch.uint8)


def test_few_bytes_do_not_ask_for_much_memory():
    """As many zeros as a tensor could have, from a position or none."""
    shape = ((1 << 32) - 1, 1 << 20)
    for values in (torch.zeros(0), torch.ones(1)):
        with pytest.raises(CodecError, match="more than such a message may have"):
            TopK(0.1).inverse({"head/values": values, "head/index": index(shape, [0, 0])}, 1, DELTA)
    many = {f"head/{i}/values": torch.zeros(0) for i in range(99)}
    many |= {f"head/{i}/index": index((1 << 20,), [0]) for i in range(99)}
    with pytest.raises(CodecError, match="more than such a message may have"):
        TopK(0.1).inverse(many, 1, DELTA)


def test_parts_that_do_not_belong_together():
    coded, _ = TopK(0.5).forward({"head": torch.arange(9.0)}, {}, DELTA)
    values, where = coded["head/values"], coded["head/index"]
    for bad in (
        {"head/values": values[1:], "head/index": where},
        {"head/values": values.long(), "head/index": where}, {"head/values": values[None], "head/index": where},
        {"head/values": values, "head/index": where.float()}, {"head/values": values, "head/index": where[:-1]},
        {"head": values, "head/values": values, "head/index": where},
    ):  # fmt: skip
        with pytest.raises(CodecError):
            TopK(0.5).inverse(bad, 1, DELTA)
    assert same(TopK(0.5).inverse({"head/values": values}, 1, DELTA), {"head/values": values})


@pytest.mark.parametrize("spec", ["top-k:0", "top-k:1.1", "threshold:-1", "threshold:nan", "top-k:nan"])
def test_bad_values(spec):
    with pytest.raises(ConfigError, match=r"share|value"):
        make("codec", spec)
    with pytest.raises(ConfigError, match=r"share|value"):
        TopK(float("nan")) if spec.startswith("top") else Threshold(float("nan"))
