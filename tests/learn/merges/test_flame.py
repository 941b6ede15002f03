import pytest
import torch
from boxes import STATE, D, close, context, inbox, joined, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import HDBSCAN

from hubless.errors import ConfigError
from hubless.learn.merges import Flame
from hubless.learn.merges.flame import majority
from hubless.parts import make

SETTINGS = dict(min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True)


def hdbscan(distances):
    """The source's own tool, with its settings."""
    found = HDBSCAN(min_cluster_size=len(distances) // 2 + 1, **SETTINGS).fit(distances.numpy())
    return (found.labels_ == 0).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 20), st.integers(0, 6), st.integers(1, 4), st.integers(0, 9999))
def test_the_majority_is_the_cluster_that_hdbscan_finds(many, few, dimensions, seed):
    rows = torch.cat([normal(seed, many, dimensions), normal(seed + 1, few, dimensions) + 3]).double()
    distances = torch.cdist(rows, rows)
    assert majority(distances).tolist() == hdbscan(distances)


@pytest.mark.parametrize("count", [1, 2])
def test_two_are_no_majority_over_each_other(count):
    assert majority(1.0 - torch.eye(count)).tolist() == [True] * count


def reference(rows, start):
    updates = (rows - start).double()
    unit = updates / updates.norm(dim=1, keepdim=True)
    apart = 1 - unit @ unit.T
    apart.fill_diagonal_(0)
    kept = [update for update, fine in zip(updates, hdbscan((apart + apart.T) / 2), strict=True) if fine]
    median = float(updates.norm(dim=1).sort().values[(len(rows) - 1) // 2])
    return (start + sum(u * min(1, median / float(u.norm())) for u in kept) / len(kept)).float()


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12), st.integers(0, 4), st.integers(0, 9999))
def test_the_answer_is_the_sources(many, few, seed):
    start, way = normal(seed, D), normal(seed + 1, D)
    rows = torch.cat([start + way + 0.5 * normal(seed + 2, many, D), start - 7 * way + normal(seed + 3, few, D)])
    close(joined(Flame(0.0), rows, start=start), reference(rows, start))
    close(joined(Flame(0.0), rows - start, kind="delta"), reference(rows, start) - start)


def test_noise_is_secret_small_and_spares_statistics():
    rows = 10 * normal(0, 7, D)
    silent, noisy = (joined(Flame(noise), rows) for noise in (0.0, 0.01))
    median = float(rows.norm(dim=1).median())
    spread = float((noisy - silent).std()) / (0.01 * median)
    assert 0.6 < spread < 1.5
    assert joined(Flame(0.01), rows).tolist() == noisy.tolist()
    box = inbox(rows, statistics=normal(1, 7, 2))
    one, other = (Flame(noise)(box, rows[0], STATE, {}, context()) for noise in (0.0, 0.01))
    assert one["buffer/1.running_mean"].tolist() == other["buffer/1.running_mean"].tolist()


def test_negative_noise_is_refused():
    with pytest.raises(ConfigError, match=r"merge\.noise = -1"):
        make("merge", "flame:-1")
