"""Randomness as a pure function of what it is for.

A key is a 64-bit integer made from (seed, round, peer, purpose). Draws are integer arithmetic on tensors
(splitmix64 of key + counter), so they are the same mapped over peers, looped, traced, on any thread and
in any process, and nothing is ever taken from a global generator.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
MASK = (1 << 64) - 1

Key = int | Tensor


def _signed(value: int) -> int:
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(z: Tensor) -> Tensor:
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(FIRST)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(SECOND)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _stir(z: Tensor) -> Tensor:
    """``_mix`` in place, for much that is drawn at once; not for what is traced, where nothing may change in place."""
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        upper = z >> shift
        upper &= (1 << (64 - shift)) - 1
        z ^= upper
        z *= _signed(factor)
    return z


def _mix_integer(z: int) -> int:
    z &= MASK
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    return z ^ (z >> 31)


def word(text: str) -> int:
    """A purpose as a number that is the same in every process."""
    return _signed(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def fold(key: Key, *words: Key | str) -> Key:
    """A new key from a key and what it is for; a tensor when any part is one."""
    for item in words:
        item = word(item) if isinstance(item, str) else item
        if isinstance(key, Tensor) or isinstance(item, Tensor):
            key = torch.as_tensor(key, dtype=torch.int64) * _signed(GOLDEN) + item
            key = _mix(key + _signed(GOLDEN))
        else:
            key = _signed(_mix_integer(key * _signed(GOLDEN) + item + GOLDEN))
    return key


def bits(key: Key, count: int, device: torch.device | str | None = None) -> Tensor:
    """``count`` random 64-bit integers; for a tensor of keys [...], the result is [..., count]."""
    if not isinstance(key, Tensor):
        key = torch.tensor(key, dtype=torch.int64, device=device)
    return _mix(key[..., None] + _counter(count, key.device))


def _counter(count: int, device: torch.device) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.int64, device=device) * _signed(GOLDEN)


def uniform(key: Key, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Numbers in [0, 1), float32, of ``shape`` (after the key's own dimensions)."""
    drawn = bits(key, math.prod(shape), device)
    return ((drawn >> 40) & ((1 << 24) - 1)).to(torch.float32).mul(2.0**-24).reshape((*drawn.shape[:-1], *shape))


def normal(key: Key, shape: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """Standard normal numbers, float32, by Box-Muller; may differ in the last bit between kinds of processor.

    One 64-bit integer gives two of them: its upper half the radius (so that they reach 6.7), its lower the angle.
    """
    count = math.prod(shape)
    if not isinstance(key, Tensor):
        key = torch.tensor(key, dtype=torch.int64, device=device)
    drawn = _stir(key[..., None] + _counter((count + 1) // 2, key.device))
    upper = (drawn >> 32) & ((1 << 32) - 1)
    radius = upper.to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = drawn.bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24 * 2.0 * math.pi)
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return both[..., :count].reshape((*drawn.shape[:-1], *shape))


def permutation(key: Key, count: int) -> Tensor:
    """A random order of ``count`` things; for keys [...], the result is [..., count]."""
    return torch.argsort(bits(key, count), dim=-1, stable=True)


def integer(key: int) -> int:
    """The key as a non-negative integer, for generators that want a seed."""
    return key & MASK >> 1
