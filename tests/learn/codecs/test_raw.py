import json
import struct
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from messages import PATIENT, same

from hubless.errors import CodecError
from hubless.learn.codecs import Raw
from hubless.learn.codecs.layout import CODES


def packet(header, body=b""):
    return b"hub1" + struct.pack("<II", len(header), zlib.crc32(header + body)) + header + body


@pytest.mark.parametrize("dtype", CODES, ids=str)
def test_every_type_comes_back_bit_for_bit(dtype):
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    m = {"w": values, "none": values[:0], "one": values[0, 1]}
    assert same(Raw().unpack(Raw().pack(m)), m)
    assert Raw().length(m) == len(Raw().pack(m))


def test_odd_memory_is_read_in_order():
    m = {"w": torch.arange(12.0).reshape(3, 4).T, "step": torch.arange(9)[::2]}
    assert same(Raw().unpack(Raw().pack(m)), m)


FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["w", "f4", "O", "V8"]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


@PATIENT
@given(FIELDS, st.binary(max_size=40))
def test_headers_that_nobody_wrote(fields, body):
    try:
        found = Raw().unpack(packet(json.dumps(fields).encode(), body))
    except CodecError:
        return
    assert sum(v.numel() * v.element_size() for v in found.values()) == len(body)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}x",
        b'[["w","f4",[4294967296,4294967296]]]',
        b'[["w","f4",[-1]]]',
        b'[["w","f4",[0,9223372036854775807,9]]]',
        b'[["w","f4",[1.0]]]',
        b'[["w","f4",[true]]]',
        b'[["w","f4",[]],["w","f4",[]]]',
        b'[["w","O",[1]]]',
        b'[[7,"f4",[]]]',
        b'[["w","f4",' + b"[" + b",".join([b"1"] * 99) + b"]]]",
    ],
)
def test_hostile_headers(header):
    with pytest.raises(CodecError):
        Raw().unpack(packet(header, b"\0" * 4))
