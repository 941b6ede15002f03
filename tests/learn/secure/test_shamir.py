import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubless.errors import CodecError
from hubless.learn.secure.shamir import PRIME, combine, split

SECRETS = st.integers(0, 2**128 - 1)


@st.composite
def shared(draw):
    count = draw(st.integers(1, 12))
    threshold = draw(st.integers(1, count))
    secret = draw(SECRETS)
    return secret, threshold, split(secret, tuple(range(1, count + 1)), threshold, draw(st.binary(max_size=16)))


def test_the_field_is_one():
    assert pow(3, PRIME - 1, PRIME) == 1
    assert all(pow(base, (PRIME - 1) // 2, PRIME) in (1, PRIME - 1) for base in (2, 3, 5, 7, 11, 13))
    assert PRIME > 2**128


@given(shared(), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(given_, random):
    secret, threshold, shares = given_
    chosen = random.sample(sorted(shares), threshold)
    assert combine({place: shares[place] for place in chosen}, threshold) == secret
    assert combine(shares, threshold) == secret


@given(shared(), SECRETS)
def test_one_less_fits_every_secret_alike(given_, other):
    """For each secret there is exactly one value of the missing share: the shares at hand say nothing."""
    _, threshold, shares = given_
    few = {place: shares[place] for place in list(shares)[: threshold - 1]}
    with pytest.raises(CodecError, match=f"{threshold - 1} shares of a secret, {threshold} are needed"):
        combine(few, threshold)
    missing = 99
    at_zero, at_one = (combine({**few, missing: value}, threshold) for value in (0, 1))
    slope = (at_one - at_zero) % PRIME
    assert slope
    value = (other - at_zero) * pow(slope, -1, PRIME) % PRIME
    assert combine({**few, missing: value}, threshold) == other


def test_shares_depend_on_the_seed():
    one, other = (split(7, (1, 2, 3), 2, seed) for seed in (b"a", b"b"))
    assert all(one[place] != other[place] for place in (1, 2, 3))
    assert split(7, (1, 2, 3), 2, b"a") == one
