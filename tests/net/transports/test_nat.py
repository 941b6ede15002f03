"""NAT types: who gets a direct link."""

from typing import get_args

import pytest

from hubless.errors import ConfigError
from hubless.net.transports.nat import NatType, check_nat, direct_share, punches


def test_only_two_kinds_of_pairs_stay_apart():
    kinds = [kind for kind in get_args(NatType) if kind != "blocked"]
    closed = {frozenset((one, other)) for one in kinds for other in kinds if not punches(one, other)}
    assert closed == {frozenset({"sym"}), frozenset({"sym", "port"})}
    assert all(punches(a, b) == punches(b, a) for a in get_args(NatType) for b in get_args(NatType))
    assert not any(punches("blocked", kind) for kind in get_args(NatType))


def test_the_mix_of_the_field_gives_two_thirds_direct():
    mix = {"open": 10, "full": 10, "addr": 10, "port": 42, "sym": 28}
    assert direct_share(mix) == pytest.approx(0.6864)


def test_an_unknown_type_is_an_error():
    with pytest.raises(ConfigError, match="did you mean 'sym'"):
        check_nat("symm")
