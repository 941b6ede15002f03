from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubless.data.partitions import (
    IID,
    Classes,
    Dirichlet,
    Domains,
    Inversion,
    Partition,
    Quantity,
    Rotation,
    Shards,
    Windows,
    counts,
)
from hubless.data.shifts import rotate
from hubless.errors import ConfigError
from hubless.parts import make, parts
from hubless.testing.data import check_partition, check_split

TEN = np.arange(1000) % 10
REQUIRED = {"dirichlet": "dirichlet:0.3"}


@pytest.mark.parametrize("name", sorted(parts("partition")))
def test_every_partition_conforms(name: str) -> None:
    check_partition(make("partition", REQUIRED.get(name, name)))


@settings(deadline=None)
@given(
    partition=st.one_of(
        st.builds(IID),
        st.builds(Dirichlet, st.floats(0.01, 100), st.integers(1, 3)),
        st.builds(Shards, st.integers(1, 3)),
        st.builds(Quantity, st.floats(0.01, 100)),
        st.builds(Rotation, st.floats(-360, 360)),
    ),
    labels=st.lists(st.integers(0, 6), min_size=60, max_size=120),
    peers=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_no_sample_is_lost_or_repeated(partition: Partition, labels: list[int], peers: int, seed: int) -> None:
    held = check_split(partition, np.array(labels), peers, seed)
    assert min(map(len, held)) >= getattr(partition, "min_size", 1)


@settings(deadline=None)
@given(k=st.integers(1, 10), peers=st.integers(10, 40), seed=st.integers(0, 100))
def test_classes_gives_every_peer_exactly_k_and_every_class_as_many_holders(k: int, peers: int, seed: int) -> None:
    table = counts(check_split(Classes(k), TEN, peers, seed), TEN, 10)
    assert ((table > 0).sum(axis=1) == k).all()
    holders = (table > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1


@settings(max_examples=20, deadline=None)
@given(peers=st.integers(2, 30), alpha=st.floats(0.01, 1), seed=st.integers(0, 100))
def test_dirichlet_reaches_its_smallest_size(peers: int, alpha: float, seed: int) -> None:
    least = len(TEN) // peers
    assert min(map(len, check_split(Dirichlet(alpha, least), TEN, peers, seed))) == least


def skew(partition: Partition) -> float:
    """Mean distance of a peer's mix of classes from the whole's, 0 to 1."""
    table = counts(partition.split(TEN, 10, 0), TEN, 10)
    return float(np.abs(table / table.sum(axis=1, keepdims=True) - 0.1).sum(axis=1).mean() / 2)


def test_smaller_alpha_means_more_skew() -> None:
    assert skew(Dirichlet(0.05)) > skew(Dirichlet(0.5)) + 0.1 > skew(Dirichlet(100)) + 0.2
    assert skew(IID()) < 0.12
    assert skew(Shards(2)) > 0.7


def test_dirichlet_shares_have_the_right_mean() -> None:
    y = np.zeros(10_000, int)
    sizes = [np.array([len(rows) for rows in Dirichlet(1.0).split(y, 4, seed)]) for seed in range(200)]
    assert np.allclose(np.mean(sizes, axis=0), 2500, atol=400)  # sd of a share is 0.19, of the mean 0.014


def test_shards_are_pure_and_equal() -> None:
    table = counts(Shards(2).split(TEN, 10, 3), TEN, 10)
    assert (table.sum(axis=1) == 100).all()
    assert ((table > 0).sum(axis=1) <= 2).all()
    assert set(np.unique(table)) <= {0, 50, 100}


def test_windows_follow_the_circle() -> None:
    table = counts(Windows(4, 2).split(TEN, 10, 0), TEN, 10) > 0
    assert np.flatnonzero(table[0]).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(table[1]).tolist() == [2, 3, 4, 5]
    assert np.flatnonzero(table[4]).tolist() == [0, 1, 8, 9]


def test_quantity_skews_sizes_not_labels() -> None:
    held = Quantity(0.5).split(TEN, 5, 1)
    sizes = sorted(map(len, held))
    assert sizes[-1] > 3 * sizes[0]
    biggest = counts([max(held, key=len)], TEN, 10)[0]
    assert biggest.max() < 2 * biggest.mean()


@pytest.mark.parametrize(
    ("spec", "peers", "said"),
    [
        ("iid", 1001, "1000 samples cannot be split among 1001 peers"),
        ("dirichlet:0.3:20", 60, r"1000 samples cannot give 60 peers min_size = 20 each \(needs 1200\)"),
        ("shards:3", 400, "1000 samples cannot make 3 shards for each of 400 peers"),
        ("classes:2", 4, "classes:2: 4 peers leave class . of 10 without a holder"),
        ("classes:11", 4, "cannot hold 11 classes, the data has 10"),
        ("windows:2", 5, "5 peers leave class 6 of 10 without a holder"),
        ("classes:10", 101, "class 0 has 100 samples for its 101 holders"),
    ],
)
def test_impossible_splits_are_refused(spec: str, peers: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make("partition", spec).split(TEN, peers, 0)


@pytest.mark.parametrize("spec", ["dirichlet:0", "dirichlet:nan", "dirichlet:1:0", "shards:0", "windows:1:0"])
def test_wrong_values_are_refused_in_text_and_in_code(spec: str) -> None:
    with pytest.raises(ConfigError):
        make("partition", spec)
    name, *values = spec.split(":")
    with pytest.raises(ConfigError, match=name):
        type(make("partition", REQUIRED.get(name, name)))(*map(float, values))


@pytest.mark.parametrize("partition", [Dirichlet(0.3), Shards(), Classes(), Windows(), Rotation(base=Shards())])
@pytest.mark.parametrize("y", [np.zeros(100, np.float32), np.zeros((100, 8), np.int64)])
def test_partitions_by_class_need_classes(partition: Partition, y: NDArray[Any]) -> None:
    with pytest.raises(ConfigError, match="needs class labels"):
        partition.split(y, 4, 0)


def test_rotation_is_scipys() -> None:
    from scipy.ndimage import rotate as reference

    x = np.random.default_rng(0).random((3, 1, 9, 12)).astype(np.float32)
    for degrees in (0, 17.5, 90, -130, 360):
        theirs = reference(x, degrees, axes=(-1, -2), reshape=False, order=1, mode="grid-constant")
        # a corner may turn to just outside by rounding: compare where both are inside
        assert np.abs(rotate(x, degrees) - theirs)[..., 1:-1, 1:-1].max() < 1e-4


def test_rotation_turns_peers_in_turn_and_keeps_the_first() -> None:
    x = np.zeros((1, 5, 5), np.float32)
    x[0, 0, 2] = 1
    partition = make("partition", "rotation:360")
    assert partition.shift(x, 0, 4) is x
    assert np.allclose(partition.shift(x, 1, 4)[0, 2, 0], 1, atol=1e-6), "counter-clockwise: up becomes left"
    assert np.allclose(partition.shift(x, 2, 4)[0, 4, 2], 1, atol=1e-6)
    with pytest.raises(ConfigError, match="needs images"):
        partition.shift(np.zeros((4, 7)), 1, 4)


def test_shifts_compose_with_other_partitions() -> None:
    both = Inversion(0.5, base=Rotation(360, base=Shards(1)))
    assert all(np.array_equal(a, b) for a, b in zip(both.split(TEN, 10, 0), Shards(1).split(TEN, 10, 0), strict=True))
    x = np.random.default_rng(0).random((2, 6, 6)).astype(np.float32)
    assert np.allclose(both.shift(x, 1, 2), 1 - rotate(x, 180))
    assert make("partition", "rotation:45:base=shards").base == Shards(2)
    with pytest.raises(ConfigError, match="unknown partition 'shard'"):
        make("partition", "rotation:45:base=shard")


def test_inversion_takes_its_share_of_peers() -> None:
    x = np.zeros((1, 2, 2), np.float32)
    assert sum(Inversion(0.3).shift(x, peer, 10).max() for peer in range(10)) == 3


def test_domains_take_turns() -> None:
    x = np.random.default_rng(0).random((2, 1, 6, 6)).astype(np.float32)
    domains = Domains(base=Classes(4))
    assert [domains.name(peer) for peer in range(4)] == ["upright", "turned", "inverted", "upright"]
    assert domains.shift(x, 3, 5) is x
    assert np.allclose(domains.shift(x, 1, 5), np.rot90(x, axes=(-2, -1)), atol=1e-6)
    assert np.array_equal(domains.shift(x, 2, 5), 1 - x)
    assert all(np.array_equal(a, b) for a, b in zip(domains.split(TEN, 9, 1), Classes(4).split(TEN, 9, 1), strict=True))
    with pytest.raises(ConfigError, match="domains: needs images"):
        domains.shift(np.zeros((4, 7)), 1, 4)


@dataclass(frozen=True)
class Wrong(Partition):
    how: str

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        held = IID().deal(y, peers, rng if self.how != "fixed" else np.random.default_rng(0))
        if self.how == "repeats":
            return [*held[:-1], held[0]]
        if self.how == "empty":
            return [np.concatenate(held), *[held[0][:0]] * (peers - 1)]
        return held

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        return x.astype(np.float64) if self.how == "type" else x


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("repeats", "lost or repeated"),
        ("empty", "has no sample"),
        ("fixed", "every seed"),
        ("type", "changes the type"),
    ],
)
def test_the_check_finds_wrong_partitions(how: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_partition(Wrong(how))


def test_contiguous_gives_each_peer_a_run() -> None:
    held = make("partition", "contiguous").split(np.zeros((11, 4)), 3, seed=5)
    assert sorted(part.tolist() for part in held) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
