import pytest
import torch
from boxes import D, close, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.errors import ConfigError
from hubless.learn.merges import Median, TrimmedMean
from hubless.learn.merges.ordered import network, ranks
from hubless.parts import make


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_ranks_are_those_of_sorting(count, data):
    values = data.draw(st.lists(st.sampled_from([-3e38, -1.0, 0.0, 0.5, 2.0, 3e38]), min_size=count, max_size=count))
    column = torch.tensor(values)[:, None]
    wanted = data.draw(st.lists(st.integers(0, count - 1), unique=True))
    found = ranks(column, wanted)
    assert [float(value) for value in found] == [sorted(column.flatten().tolist())[rank] for rank in wanted]


def test_a_network_does_less_for_fewer_ranks():
    assert len(network(100, (49, 50))) < len(network(100, tuple(range(100)))) < 1100


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(0, 9999))
def test_the_median_is_the_middle_or_between_the_two(count, seed):
    rows = normal(seed, count, D)
    close(joined(Median(), rows), torch.quantile(rows, 0.5, dim=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.floats(0, 0.49), st.integers(0, 9999))
def test_as_many_are_trimmed_at_each_end(count, trim, seed):
    rows = normal(seed, count, D)
    cut = min(max(int(trim * count), 1 if trim else 0), (count - 1) // 2)
    close(joined(TrimmedMean(trim), rows), rows.sort(dim=0).values[cut : count - cut].mean(0))


def test_half_cannot_be_trimmed():
    with pytest.raises(ConfigError, match=r"merge\.trim = 0\.5: must be in \[0, 0\.5\)"):
        make("merge", "trimmed-mean:0.5")
