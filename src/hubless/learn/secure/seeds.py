"""What is made of keys: seeds for one purpose each, masks, and sealed shares. All of it is SHAKE and BLAKE2."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from numpy.typing import NDArray

from hubless.errors import CodecError

SEED = 16  # bytes of a seed
TAG = 16  # bytes by which a damaged or forged seal is known

Words = NDArray[np.uint64]


def derive(purpose: str, *parts: int | bytes) -> bytes:
    """A seed that depends on every part; seeds of different purposes say nothing about each other."""
    text = "/".join(part.hex() if isinstance(part, bytes) else str(part) for part in parts)
    return hashlib.shake_256(f"hubless secure sum/{purpose}/{text}".encode()).digest(SEED)


def mask(seed: bytes, name: str, count: int, bits: int) -> Words:
    """``[count]`` elements of the field, uniform in [0, 2^bits): a power of two, so no draw is ever rejected."""
    width = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    drawn = hashlib.shake_128(seed + name.encode()).digest(count * width)
    words: Words = np.frombuffer(drawn, f"<u{width}").astype(np.uint64)
    return words if bits == 8 * width else words & np.uint64((1 << bits) - 1)


def seal(key: bytes, data: bytes) -> bytes:
    """Data that only who has the key can read or make, ``TAG`` bytes longer; one key seals once."""
    hidden = _mixed(key, data)
    return hidden + _tag(key, hidden)


def unseal(key: bytes, data: bytes) -> bytes:
    """The inverse. Raises CodecError for what was not sealed with the key."""
    hidden, tag = data[:-TAG], data[-TAG:]
    if not hmac.compare_digest(tag, _tag(key, hidden)):
        raise CodecError("secure sum: a sealed share is damaged")
    return _mixed(key, hidden)


def _mixed(key: bytes, data: bytes) -> bytes:
    stream = hashlib.shake_256(key + b"stream").digest(len(data))
    return bytes(a ^ b for a, b in zip(data, stream, strict=True))


def _tag(key: bytes, hidden: bytes) -> bytes:
    return hashlib.blake2b(hidden, digest_size=TAG, key=key).digest()


def covered(seed: bytes, key: bytes, peer: int) -> bytes:
    """A seed hidden under a key, and back: one place of a box."""
    return bytes(a ^ b for a, b in zip(seed, derive("cover", key, peer), strict=True))
