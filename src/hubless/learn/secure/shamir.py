"""Shamir's secret sharing: any t shares of n give the secret, t - 1 say nothing about it (CACM 22(11), 1979).

Secrets are 128-bit seeds, so the field is that of the integers modulo the first well-known prime above 2^128.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from hubless.errors import CodecError

PRIME = 2**130 - 5
SHARE = 17  # bytes of a share


def split(secret: int, places: tuple[int, ...], threshold: int, seed: bytes) -> dict[int, int]:
    """Shares of ``secret`` in [0, PRIME) at distinct places >= 1; ``seed`` draws the other t - 1 coefficients."""
    wide = hashlib.shake_256(seed).digest(32 * (threshold - 1))  # 256 bits modulo PRIME: uniform up to 2^-126
    drawn = [int.from_bytes(wide[at : at + 32], "little") % PRIME for at in range(0, len(wide), 32)]
    shares = {}
    for place in places:
        value = 0
        for coefficient in reversed(drawn):
            value = (value + coefficient) * place % PRIME
        shares[place] = (value + secret) % PRIME
    return shares


def combine(shares: Mapping[int, int], threshold: int) -> int:
    """The secret from shares by place, of which the first ``threshold`` are used. Raises CodecError for fewer."""
    if len(shares) < threshold:
        raise CodecError(f"secure sum: {len(shares)} shares of a secret, {threshold} are needed")
    places = tuple(sorted(shares)[:threshold])
    return sum(shares[place] * weight for place, weight in zip(places, _at_zero(places), strict=True)) % PRIME


@lru_cache(maxsize=256)
def _at_zero(places: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients of the polynomial's value at 0."""
    weights = []
    for place in places:
        above = below = 1
        for other in places:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
