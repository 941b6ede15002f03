import math
import struct
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import CONTEXT, DELTA, FEW, MODEL, PATIENT, same, update
from torch import nn

import hubless.testing as testing
from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import BestOf, KMeans, TopZ
from hubless.learn.codecs.layers import places
from hubless.learn.codecs.layout import head
from hubless.learn.context import Context
from hubless.learn.model import Model
from hubless.parts import make


def coded(tensors, k=3):
    """Labels and centroids of some tensors, as the packer gets them."""
    return KMeans(k).forward({f"head/{name}": value for name, value in tensors.items()}, {}, DELTA)[0]


def test_top_z_keeps_the_largest_with_ties_and_whole_biases():
    weight = torch.tensor([[0.5, -2.0, 0.1], [2.0, -0.5, 0.0]])
    bias = torch.tensor([0.1, 0.2, 3.0])
    m = {"head/weight": weight, "head/bias": bias, "buffer/1.running_var": weight, "seen": weight.long()}
    heard, _ = TopZ(0.5).forward(m, {}, DELTA)
    assert heard["head/weight"].tolist() == [[0.5, -2.0, 0], [2.0, -0.5, 0]], "all that equal the third stay"
    assert heard["head/bias"] is bias
    assert heard["buffer/1.running_var"] is weight
    assert TopZ(1.0).forward(m, {}, DELTA)[0]["head/weight"] is weight
    assert int((TopZ(0.3).forward(m, {}, DELTA)[0]["head/weight"] != 0).sum()) == math.ceil(0.3 * 6)


def test_a_layer_is_three_values_and_the_largest_cluster_holds_the_zeros():
    m, codec = update(), make("codec", "fedzip:0.2")
    heard = codec.decode(codec.encode(m, {}, DELTA)[0], DELTA)
    assert list(heard) == list(m)
    for group, labels in places(MODEL).items():
        for where, shape in labels.values():
            first = MODEL.groups[group].start
            values, counts = heard[group][where.start - first : where.stop - first].unique(return_counts=True)
            assert len(values) <= 3
            if len(shape) > 1:
                assert counts.max() >= 0.75 * counts.sum()
    assert all(torch.equal(heard[name], m[name]) for name in m.keys() - MODEL.groups.keys())


@FEW
@given(st.sampled_from([1.0, 0.2, 0.05, 0.01]), st.integers(0, 99), st.booleans(), st.sampled_from(["best", "gap"]))
def test_what_is_decoded_is_the_quantised_tensor_bit_for_bit(z, seed, snap, way):
    codec = make("codec", f"fedzip:{z}:snap_zero={snap}:way={way}")
    m = update(seed)
    quantised, _ = codec.forward(m, {}, DELTA)
    data, _ = codec.encode(m, {}, DELTA)
    unpacked = codec.packer.unpack(data)
    assert unpacked.keys() == quantised.keys()
    assert all(same({"x": unpacked[name]}, {"x": quantised[name]}) for name in quantised)
    assert same(codec.decode(data, DELTA), codec.inverse(quantised, 1, DELTA))
    if snap:
        assert all((codec.decode(data, DELTA)[name] == 0).any() for name in MODEL.groups)


@FEW
@given(st.sampled_from([0.5, 0.2, 0.05, 0.01]), st.integers(0, 99))
def test_the_best_of_three_is_no_longer_than_any(z, seed):
    m = update(seed)
    sizes = {way: len(make("codec", f"fedzip:{z}:way={way}").encode(m, {}, DELTA)[0])
             for way in ("best", "label", "address", "gap")}  # fmt: skip
    assert sizes["best"] <= min(sizes.values())


VALUES = st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0, 0.25])


@FEW
@given(st.lists(st.lists(VALUES, max_size=12), max_size=4), st.sampled_from([2, 3, 15]))
def test_tensors_of_any_small_size_come_back(tensors, k):
    m = coded({str(i): torch.tensor(values) for i, values in enumerate(tensors)}, k)
    for ways in (("label",), ("address",), ("gap",), ("label", "address", "gap")):
        assert same(BestOf(ways).unpack(BestOf(ways).pack(m)), m)


@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (3,), (), (1, 3), (3, 0, 2), (40, 40)])
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_tensors(shape, value):
    m = {"head/x": torch.full(shape, value)}
    codec = make("codec", "fedzip:0.01")
    heard = codec.decode(codec.encode(m, {}, DELTA)[0], DELTA)
    assert heard["head/x"].shape == shape
    assert same(heard, m)


def test_other_tensors_and_other_packers_pass():
    codec = make("codec", "fedzip:0.2")
    facts = {"seen": torch.tensor([4]), "x/labels": torch.zeros(3), "y/labels": torch.zeros(3, dtype=torch.int16)}
    assert same(codec.decode(codec.encode(facts, {}, DELTA)[0], DELTA), facts)
    assert same(codec.decode(codec.encode({}, {}, DELTA)[0], DELTA), {})
    assert same(codec.decode(codec.encode(update(), {}, CONTEXT)[0], CONTEXT), update()), "a model is left alone"
    half = make("codec", "fedzip:0.2+float16")
    assert half.decode(half.encode(update(), {}, DELTA)[0], DELTA).keys() == update().keys()


def test_the_whole_size_of_a_large_update():
    """At a hundredth, a perceptron of 101,770 parameters needs less than 2,700 bytes, every header counted."""
    model = Model(lambda: nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)))
    ctx = Context(t=1, N=2, model=model, slope=None, kind="delta")
    w = torch.randn(model.size, generator=torch.Generator().manual_seed(3)) ** 3
    sizes = [len(make("codec", f"fedzip:{z}").encode({"w": w}, {}, ctx)[0]) for z in (0.2, 0.05, 0.01)]
    assert sizes[0] < 4 * model.size / 30
    assert sizes[1] < 4 * model.size / 70
    assert sizes[2] < 4 * model.size / 150


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_numbers_that_are_not_finite_name_the_tensor(bad):
    m = update()
    m["head"] = m["head"].clone()
    m["head"][-1] = bad
    with pytest.raises(CodecError, match=r"head/2\.bias is not finite"):
        make("codec", "fedzip:0.2").encode(m, {}, DELTA)


@pytest.mark.parametrize("z", ["0", "-0.1", "1.5", "nan", "many"])
def test_bad_shares(z):
    with pytest.raises(ConfigError, match="z = "):
        make("codec", f"fedzip:{z}")
    if z != "many":
        with pytest.raises(ConfigError, match=r"fedzip\.z = .*must be in \(0, 1\]"):
            TopZ(float(z))


def resealed(data):
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@FEW
@given(st.data())
def test_mutated_bytes_behind_a_good_checksum(data):
    way = data.draw(st.sampled_from(["label", "address", "gap"]))
    codec = make("codec", f"fedzip:0.2:way={way}")
    packet = bytearray(codec.encode(update(), {}, DELTA)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(4, len(packet) - 5))] = data.draw(st.integers(0, 255))
    try:
        heard = codec.decode(resealed(bytes(packet)), DELTA)
    except CodecError:
        return
    assert sum(value.numel() for value in heard.values()) < 1 << 26


@PATIENT
@given(st.binary(max_size=120))
def test_arbitrary_bytes_behind_a_good_checksum(body):
    try:
        BestOf().unpack(resealed(b"hubf" + body + b"\0" * 4))
    except CodecError:
        return


def test_every_flipped_bit_and_every_cut_is_seen():
    data = BestOf().pack(coded({"x": torch.tensor([0.0] * 20 + [1.0, -1.0])}))
    for spot in range(len(data)):
        for bit in range(8):
            with pytest.raises(CodecError):
                BestOf().unpack(data[:spot] + bytes([data[spot] ^ 1 << bit]) + data[spot + 1 :])
        with pytest.raises(CodecError):
            BestOf().unpack(data[:spot])


def hostile(shape, way=1, k=3, largest=0, m=0, body=b"", copies=1, name=b"x"):
    one = bytes([len(name)]) + name + head(torch.int16, shape) + bytes([way, k, largest])
    one += b"\0" * 4 * k + struct.pack("<I", m) + body
    return resealed(b"hubf" + struct.pack("<HI", copies, 0) + one * copies + b"\0" * 4)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (hostile(((1 << 32) - 1,) * 200), "more than such a message may have"),
        (hostile((1 << 24,), copies=2), "more than such a message may have|twice"),
        (hostile((9,), copies=2), "twice"),
        (hostile((9,), m=10), "10 of 9"),
        (hostile((9,), m=2, body=b"\x33\1"), "do not rise"),
        (hostile((9,), m=1, body=b"\x0f\0"), "do not rise"),
        (hostile((9,), m=9), "truncated"),
        (hostile((9,), way=3), "not a coded tensor"),
        (hostile((9,), k=1), "not a coded tensor"),
        (hostile((9,), largest=3), "not a coded tensor"),
        (hostile((9,), name=b"\xff"), "no text"),
        (hostile((0, (1 << 32) - 1) * 9), "shape"),
        (hostile((9,), body=b"\1"), "too many"),
    ],
)
def test_hostile_packets(packet, words):
    with pytest.raises(CodecError, match=words):
        BestOf().unpack(packet)


@pytest.mark.parametrize("way", ["best", "label", "address", "gap"])
def test_conformance(way):
    testing.check_codec(f"fedzip:0.3:way={way}", kind="delta")
