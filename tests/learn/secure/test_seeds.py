import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import CodecError
from hubless.learn.secure.seeds import SEED, TAG, covered, derive, mask, seal, unseal

KEY = derive("test", 1)


@pytest.mark.parametrize("bits", [1, 7, 8, 10, 16, 31, 32, 56, 64])
def test_masks_are_uniform_on_the_field(bits):
    """Chi-square of the upper bits on 16 cells (fewer for small fields): beyond 40 once in 2000 fair draws."""
    words = mask(KEY, "w", 16000, bits)
    assert int(words.max()) < 1 << bits
    cells = min(16, 1 << bits)
    counts = np.bincount((words >> np.uint64(max(0, bits - 4))).astype(np.int64), minlength=cells)
    expected = 16000 / cells
    assert ((counts - expected) ** 2 / expected).sum() < 40
    low = np.bincount((words & np.uint64(1)).astype(np.int64), minlength=2)
    assert abs(low[0] - 8000) < 4 * 16000**0.5 / 2


def test_seeds_and_masks_are_of_one_purpose():
    assert len(derive("a", 1, 23)) == SEED
    assert derive("a", 1, 23) != derive("a", 12, 3)
    assert derive("a", 1) != derive("b", 1)
    one, other = mask(KEY, "w", 1000, 32), mask(KEY, "v", 1000, 32)
    assert (one != other).mean() > 0.99
    assert np.array_equal(one, mask(KEY, "w", 1000, 32))


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=60))
def test_what_is_sealed_comes_back(key, data):
    sealed = seal(key, data)
    assert len(sealed) == len(data) + TAG
    assert unseal(key, sealed) == data


@given(st.binary(min_size=1, max_size=40), st.integers(0, 1000), st.integers(1, 255))
def test_a_damaged_or_foreign_seal_is_refused(data, at, change):
    sealed = bytearray(seal(KEY, data))
    sealed[at % len(sealed)] ^= change
    for key, wrong in ((KEY, bytes(sealed)), (derive("test", 2), seal(KEY, data)), (KEY, b""), (KEY, sealed[:-1])):
        with pytest.raises(CodecError, match="damaged"):
            unseal(key, bytes(wrong))


def test_a_place_of_a_box_opens_with_its_key_only():
    seed = derive("seed", 5)
    hidden = covered(seed, KEY, 3)
    assert covered(hidden, KEY, 3) == seed
    assert covered(hidden, KEY, 4) != seed
