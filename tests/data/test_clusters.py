import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubless.data.clusters import AtLeast, KMeans, cluster
from hubless.data.dataset import Dataset
from hubless.data.partitions import IID, Rotation, Shards
from hubless.errors import ConfigError, PartitionError
from hubless.learn import Workload
from hubless.parts import make
from hubless.testing.data import check_partition, check_split

EVEN = np.ones


def blobs(sizes, spread=0.1, seed=0):
    """Points around far corners, so many at each, mixed; and which corner each belongs to."""
    rng = np.random.default_rng(seed)
    corner = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return (10 * np.eye(len(sizes))[corner] + rng.normal(0, spread, (len(corner), len(sizes)))), corner


@pytest.mark.parametrize("fine", [0, 20, 1000])
def test_clusters_that_lie_apart_are_found_whatever_their_sizes(fine):
    x, corner = blobs((10, 60, 130))
    held = KMeans(fine).split(x.astype(np.float32), 3, seed=1)
    assert sorted(map(len, held)) == [10, 60, 130]
    assert all(len(set(corner[rows])) == 1 for rows in held)


@pytest.mark.parametrize("partition", [KMeans(0), KMeans(30), AtLeast(1, base=KMeans(30)), AtLeast(1, base=Shards(2))])
def test_conforms(partition):
    check_partition(partition)


@settings(deadline=None, max_examples=40)
@given(
    points=st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=12, max_size=40),
    peers=st.integers(1, 12),
    fine=st.sampled_from([0, 12, 14]),
    seed=st.integers(0, 99),
)
def test_nobody_is_empty_even_where_points_coincide(points, peers, fine, seed):
    check_split(KMeans(fine), np.array(points, np.float32), peers, seed)


def test_centres_are_the_means_and_the_nearest():
    x = np.random.default_rng(3).normal(size=(300, 4))
    owner = cluster(x, EVEN(300), 6, np.random.default_rng(0))
    centres = np.stack([x[owner == k].mean(0) for k in range(6)])
    assert (((x[:, None] - centres) ** 2).sum(-1).argmin(1) == owner).all()


def test_heavy_points_pull_the_centres():
    """Of one cluster too few, the light points must share one with others, not the heavy ones."""
    x = np.array([[0.0], [10.0], [11.0], [30.0]])
    owner = cluster(x, np.array([1000.0, 1, 1, 1000]), 3, np.random.default_rng(0))
    assert owner[1] == owner[2]
    assert len({owner[0], owner[1], owner[3]}) == 3


def test_labels_are_no_inputs():
    with pytest.raises(ConfigError, match=r"kmeans: clusters inputs of real numbers, not what has the shape \(100,\)"):
        KMeans().split(np.arange(100) % 10, 4, 0)
    with pytest.raises(ConfigError, match="kmeans: fine = 3: must be 0, or at least the 4 peers"):
        KMeans(3).split(np.zeros((50, 2), np.float32), 4, 0)


def test_a_small_part_is_named():
    x, _ = blobs((5, 45, 50))
    x = x.astype(np.float32)
    with pytest.raises(PartitionError, match=r"KMeans\(fine=0\) leaves peer \d of 3 with 5 samples, fewer than 16"):
        AtLeast(16, "half a batch of 32", base=KMeans(0)).split(x, 3, 0)
    assert issubclass(PartitionError, ConfigError)
    assert [len(rows) for rows in AtLeast(5, base=IID()).split(np.zeros(10), 2, 0)] == [5, 5]


def test_what_wraps_another_sees_as_it_does():
    wrapped = AtLeast(1, base=Rotation(180, base=KMeans(0)))
    assert wrapped.needs_inputs
    assert not wrapped.needs_labels
    x = np.random.default_rng(0).random((2, 4, 4))
    assert np.allclose(wrapped.shift(x, 1, 2), make("partition", "rotation:180").shift(x, 1, 2))


def test_peers_of_a_workload_hold_the_clusters_of_its_training_inputs():
    x, _ = blobs((20, 30, 50))
    data = Dataset.of(x, np.zeros((100, 1), np.float32), test=(x[:4] + 50, np.zeros((4, 1))), task="regression")
    shards = Workload(data, "kmeans:0", 3, "softmax").shards(0)
    assert sorted(shards.sizes.tolist()) == [20, 30, 50]
    for peer in range(3):
        assert len({int(row.argmax()) for row in shards.own(peer)[0]}) == 1
