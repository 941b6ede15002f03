from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hubless.data.dedup import DualHash, inject
from hubless.data.fetch import is_cached
from hubless.errors import ConfigError
from hubless.parts import make


def smooth(count: int, seed: int) -> NDArray[np.float32]:
    """Random smooth pictures: noise of 7x7, enlarged."""
    coarse = np.random.default_rng(seed).random((count, 7, 7))
    return np.kron(coarse, np.ones((1, 4, 4))).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.6), seed=st.integers(0, 1000))
def test_all_copies_go_and_all_originals_stay(share: float, seed: int) -> None:
    images = smooth(40, seed)
    pool, y, origin = inject(images, np.arange(40), share, np.random.default_rng(seed))
    keep = DualHash().keep(pool)
    assert sorted(origin[keep]) == list(range(40))
    assert np.array_equal(y, origin)
    first = np.array([np.flatnonzero(origin == row)[0] for row in range(40)])
    assert np.array_equal(np.flatnonzero(keep), np.sort(first)), "the first seen wins"


def test_injected_copies_are_half_exact_half_darker() -> None:
    images = smooth(100, 0)
    pool, _, origin = inject(images, np.zeros(100), 0.5, np.random.default_rng(0))
    assert len(pool) == 200
    exact = (pool == images[origin]).all(axis=(1, 2))
    assert exact.sum() == 150
    ratio = (pool[~exact] / images[origin[~exact]]).reshape(50, -1).mean(axis=1)
    assert 0.9 <= ratio.min() < 0.93
    assert 0.97 < ratio.max() < 1


def slow_keep(method: DualHash, images: NDArray[np.float32]) -> list[bool]:
    """The definition, one image after another."""
    found = method.digests(images)
    bits = np.unpackbits(found.near, axis=1)
    seen: set[bytes] = set()
    kept: list[int] = []
    for row, digest in enumerate(found.exact):
        known = digest.tobytes() in seen
        seen.add(digest.tobytes())
        if not known and all((bits[row] != bits[other]).sum() > method.threshold for other in kept):
            kept.append(row)
    return [row in kept for row in range(len(images))]


@pytest.mark.parametrize("threshold", [0, 4, 40, 100])
def test_keep_is_the_plain_definition(threshold: int) -> None:
    images = np.concatenate([smooth(30, 0), smooth(30, 0) * 0.95, smooth(580, 1), smooth(5, 0)])
    method = DualHash(threshold)
    assert method.keep(images).tolist() == slow_keep(method, images)


def test_across_peers_the_lowest_keeps() -> None:
    images = smooth(10, 0)
    method = DualHash()
    peers = [images[[0, 1, 0]], images[[1, 2]] * np.float32(0.9), images[[2, 3]]]
    masks = method.across([method.digests(x) for x in peers])
    assert [mask.tolist() for mask in masks] == [[True, True, False], [False, True], [False, True]]
    assert method.across([]) == []
    assert method.across([method.digests(images[:0]), method.digests(images[:1])])[1].tolist() == [True]


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="threshold = 300 must be 0 to 255 bits"):
        DualHash(300)
    with pytest.raises(ConfigError, match="size = 1"):
        DualHash(size=1)
    with pytest.raises(ConfigError, match=r"grey images .* not shape \(2, 3, 8, 8\)"):
        DualHash().keep(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ConfigError, match="share = 1"):
        inject(smooth(3, 0), np.zeros(3), 1.0, np.random.default_rng(0))


@pytest.mark.skipif(not is_cached("fashion-mnist"), reason="needs: hubless data get fashion-mnist")
def test_on_clothes_copies_go_and_unique_images_stay() -> None:
    clothes = make("data", "fashion-mnist").subset(2000, 0)
    pool, _, origin = inject(clothes.x, clothes.y, 0.4689, np.random.default_rng(0))
    keep = DualHash().keep(pool)
    found = len(np.unique(origin[keep]))
    assert keep.sum() - found <= 0.03 * (len(pool) - 2000)
    assert found >= 0.97 * 2000
