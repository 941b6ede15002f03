import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, DELTA, PATIENT, same

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import BitPack
from hubless.learn.codecs.bits import packed, packed_size, unpacked
from hubless.parts import make


@PATIENT
@given(st.integers(1, 62), st.integers(0, 40), st.integers(0, 2**32))
def test_values_come_back_from_exactly_their_bits(width, count, seed):
    values = np.random.default_rng(seed).integers(0, 1 << width, count, dtype=np.uint64)
    data = packed(values, width)
    assert len(data) == packed_size(count, width) == -(-count * width // 8)
    assert unpacked(data, width, count).tolist() == values.tolist()


@PATIENT
@given(st.integers(1, 62), st.binary(max_size=60), st.integers(0, 100))
def test_any_bytes_of_the_right_length_are_values(width, data, count):
    row = np.frombuffer(data, np.uint8)
    if len(data) != packed_size(count, width):
        with pytest.raises(CodecError, match="need"):
            unpacked(row, width, count)
    else:
        assert len(unpacked(row, width, count)) == count


def test_type_shape_and_facts_come_back():
    m = {
        "w": torch.arange(12, dtype=torch.int32).reshape(3, 4), "none": torch.zeros(0, 3, dtype=torch.int64),
        "one": torch.tensor(9, dtype=torch.int8), "large": torch.tensor([1 << 40, -3]), "x": torch.ones(2),
        "bytes": torch.tensor([255], dtype=torch.uint8), "flag": torch.tensor([True, False]),
    }  # fmt: skip
    codec = make("codec", "bits:4")
    data, _ = codec.encode(m, {}, CONTEXT)
    assert same(codec.decode(data, CONTEXT), m)
    coded, _ = BitPack(4).forward(m, {}, CONTEXT)
    assert coded["w/bits"].numel() == 3 + 2 * 4 + 6
    assert coded["large"] is m["large"]


@pytest.mark.parametrize("value", [-1, 16])
def test_parameters_out_of_range(value):
    with pytest.raises(CodecError, match=r"head holds .* 4 bits hold 0 to 15"):
        BitPack(4).forward({"head": torch.tensor([3, value])}, {}, DELTA)


@pytest.mark.parametrize("width", [0, 63])
def test_a_width_that_no_number_has(width):
    with pytest.raises(ConfigError, match="width"):
        make("codec", f"bits:{width}")
    with pytest.raises(ConfigError, match="must be from 1 to 62"):
        BitPack(width)


def test_bytes_that_do_not_fit_their_shape():
    coded = BitPack(4).forward({"w": torch.arange(9)}, {}, CONTEXT)[0]["w/bits"]
    for bad in (coded[:-1], coded[:3], coded[:0], torch.cat([coded, coded[:1]]), coded.float(), coded[None]):
        with pytest.raises(CodecError):
            BitPack(4).inverse({"w/bits": bad}, 1, CONTEXT)
    huge = coded.clone()
    huge[3:7] = 255
    with pytest.raises(CodecError, match="need"):
        BitPack(4).inverse({"w/bits": huge}, 1, CONTEXT)


def test_bits_of_another_width_are_another_stage_s():
    m, codec = {"w": torch.arange(9)}, make("codec", "bits:5+bits:4+bits:8")
    assert same(codec.decode(codec.encode(m, {}, CONTEXT)[0], CONTEXT), m)
