"""Which two peers behind address translators can get a direct link by punching holes at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from hubless.errors import ConfigError, did_you_mean

NatType = Literal["open", "full", "addr", "port", "sym", "blocked"]
"""open:    a public address
full:    one outer address for all, open to anybody
addr:    one outer address, open to hosts that were written to
port:    one outer address, open to host and port that were written to
sym:     another outer port for every host written to, so that nobody can be told of it
blocked: lets nothing through but connections to relays with a public address"""

_CLOSED = {("sym", "sym"), ("sym", "port"), ("port", "sym")}


def check_nat(nat: str) -> None:
    """Raise ConfigError for a type that does not exist."""
    if nat not in get_args(NatType):
        raise ConfigError(f"nat = {nat!r}: {did_you_mean(nat, get_args(NatType))}")


def punches(one: NatType, other: NatType) -> bool:
    """Whether the two get a direct link: all do but {sym, sym}, {sym, port} and whoever is blocked (RFC 5128, 3.4)."""
    return "blocked" not in (one, other) and (one, other) not in _CLOSED


def direct_share(mix: Mapping[NatType, float]) -> float:
    """Share of pairs with a direct link when types are drawn independently with these weights."""
    total = sum(mix.values())
    return sum(a * b for one, a in mix.items() for other, b in mix.items() if punches(one, other)) / total**2
