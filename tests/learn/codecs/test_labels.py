import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import FEW, PATIENT

from hubless.errors import CodecError
from hubless.learn.codecs.labels import WAYS
from hubless.learn.codecs.layout import Reader


@st.composite
def rare(draw):
    n, k = draw(st.integers(0, 3000)), draw(st.integers(2, 15))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    at = np.flatnonzero(random.random(n) < draw(st.sampled_from([0, 0.001, 0.05, 0.3, 1])))
    return at, random.integers(0, k - 1, len(at)), n, k


@pytest.mark.parametrize("way", WAYS)
@FEW
@given(case=rare())
def test_positions_and_labels_come_back_from_bytes_that_delimit_themselves(way, case):
    at, rank, n, k = case
    data = WAYS[way].write(at, rank, n, k)
    assert len(data) == WAYS[way].size(at, rank, n, k)
    reader = Reader(data + b"tail")
    places, labels = WAYS[way].read(reader, len(at), n, k)
    assert places.tolist() == at.tolist()
    assert labels.tolist() == rank.tolist()
    assert reader.left == 4


@pytest.mark.parametrize("way", WAYS)
@PATIENT
@given(data=st.binary(max_size=60), m=st.integers(0, 50), n=st.integers(0, 500), k=st.integers(2, 15))
def test_any_bytes_are_as_many_positions_or_refused(way, data, m, n, k):
    try:
        at, rank = WAYS[way].read(Reader(data), m, n, k)
    except CodecError:
        return
    assert len(at) == len(rank) == m


def test_what_each_way_costs():
    """An entry: 1 bit (2 where it is rare); ceil(log2 n) + 1 bits; about log2 of the gap, and 1."""
    n = 10_000
    at = np.arange(7, n, 100)
    rank = np.arange(len(at)) % 2
    sizes = {name: 8 * way.size(at, rank, n, 3) for name, way in WAYS.items()}
    assert sizes["label"] == pytest.approx(n + len(at), abs=60)
    assert sizes["address"] == pytest.approx(len(at) * (math.ceil(math.log2(n)) + 1), abs=14)
    assert sizes["gap"] == pytest.approx(len(at) * (1 + 6 + 1), abs=8 * (17 + 4 + 3))
