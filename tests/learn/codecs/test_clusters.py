import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from messages import CONTEXT, DELTA, MODEL, PATIENT, same, update

from hubless.errors import CodecError, ConfigError
from hubless.learn.codecs import KMeans
from hubless.learn.codecs.clusters import lloyd
from hubless.parts import make

NUMBERS = arrays(
    np.float32, st.integers(0, 60), elements=st.sampled_from([0, 0, 0, 0.53125, -0.5, 1, 2.25, -7, 0.125, 3.5])
)


def by_hand(x, k, iterations):
    """The same as the card says it: all distances, means over members, an empty cluster stays."""
    centroids = np.linspace(float(x.min()), float(x.max()), k)
    labels = None
    for _ in range(iterations):
        gaps = np.abs(x.astype(np.float64)[:, None] - centroids)
        near = np.sort(gaps, axis=1)
        assume((near[:, 1] - near[:, 0] > 1e-9).all())  # halfway, the last bit decides here
        new = gaps.argmin(1)
        if labels is not None and np.array_equal(new, labels):
            break
        labels = new
        for j in range(k):
            if (labels == j).any():
                centroids[j] = x[labels == j].astype(np.float64).mean()
    return labels, centroids


@PATIENT
@given(NUMBERS, st.integers(2, 6), st.integers(1, 10))
def test_lloyd_is_k_means_over_all_entries_zeros_included(x, k, iterations):
    labels, centroids = lloyd(x, k, iterations)
    assert len(labels) == len(x)
    assert centroids.shape == (k,)
    if not len(x):
        return
    if len(set(x.tolist())) > 1:
        expected, wanted = by_hand(x, k, iterations)
        assert np.allclose(centroids, wanted.astype(np.float32), atol=1e-6)
        assert labels.tolist() == expected.tolist()
    assert (np.diff(centroids) >= 0).all()


def test_halfway_is_the_lower():
    labels, centroids = lloyd(np.array([0, 0.5, 1], np.float32), 2)
    assert labels.tolist() == [0, 0, 1]
    assert centroids.tolist() == [0.25, 1]


def test_the_paper_s_three_values():
    x = np.concatenate([np.zeros(90), np.full(4, -1.0), np.full(6, 2.0)]).astype(np.float32)
    labels, centroids = lloyd(x, 3)
    assert centroids.tolist() == [-1, 0, 2]
    assert np.bincount(labels).tolist() == [4, 90, 6]


@pytest.mark.parametrize("shape", [(0,), (1,), (), (3, 1), (2, 0), (5,)])
@pytest.mark.parametrize("k", [2, 3, 16, 256])
def test_constant_and_small_tensors(shape, k):
    m = {"head/x": torch.full(shape, 0.1)}
    codec = make("codec", f"k-means:{k}")
    assert same(codec.decode(codec.encode(m, {}, DELTA)[0], DELTA), m)


def test_entries_become_the_nearest_centroid_and_the_rest_passes():
    m, codec = update(), make("codec", "k-means:5")
    data, _ = codec.encode(m, {}, DELTA)
    heard = codec.decode(data, DELTA)
    for name in MODEL.groups:
        values = heard[name].unique()
        assert len(values) <= 5
        assert torch.equal((m[name][:, None] - values).abs().min(1).values, (m[name] - heard[name]).abs())
    assert all(torch.equal(heard[name], m[name]) for name in m.keys() - MODEL.groups.keys())
    assert same(codec.decode(codec.encode(m, {}, CONTEXT)[0], CONTEXT), m), "a model is left alone"


def test_the_largest_cluster_may_snap_to_zero():
    x = torch.cat([torch.full((9,), 0.01), torch.tensor([1.0, -1.0])])
    for snap, expected in ((False, 0.01), (True, 0.0)):
        stage = KMeans(3, snap_zero=snap)
        heard = stage.inverse(stage.forward({"head": x}, {}, DELTA)[0], 1, DELTA)["head"]
        assert heard[:9].tolist() == pytest.approx([expected] * 9)
        assert heard[9:].tolist() == [1, -1]


def test_refusals():
    for spec in ("k-means:1", "k-means:257"):
        with pytest.raises(ConfigError, match="k = "):
            make("codec", spec)
    for bad in (KMeans, lambda k: KMeans(3, iterations=0)):
        with pytest.raises(ConfigError, match="k-means"):
            bad(1)
    with pytest.raises(CodecError, match="head is not finite"):
        KMeans(3).forward({"head": torch.tensor([torch.nan])}, {}, DELTA)
    labels, centroids = torch.tensor([0, 1], dtype=torch.int16), torch.tensor([0.0, 1.0])
    for one, other in (
        (labels + 1, centroids), (labels - 1, centroids), (labels, centroids[:0]), (labels.long(), centroids),
        (labels, centroids.long()), (labels, torch.zeros(257)),
    ):  # fmt: skip
        with pytest.raises(CodecError):
            KMeans(2).inverse({"head/labels": one, "head/centroids": other}, 1, DELTA)
