"""What a document may hold, and its one encoding: two replicas that hold the same have the same bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from hubless.errors import ConfigError

Value = Any  # None, bool, int of 64 bits, float, str, bytes, and lists and dicts (with str keys) of them
DEPTH = 32  # of lists and dicts in each other

wire = msgspec.msgpack.Encoder().encode  # dicts as they stand: for what is signed or sent as these bytes
_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder()


def encode(tree: Any) -> bytes:
    """The canonical bytes of a tree whose dicts have str keys."""
    return _encoder.encode(tree)


def pack(value: Value) -> bytes:
    """The canonical bytes of a value. Raises ConfigError for what a document cannot hold."""
    try:
        return _encoder.encode(plain(value))
    except OverflowError:
        raise ConfigError(f"value = {value!r}: an integer has at most 64 bits") from None
    except UnicodeEncodeError:
        raise ConfigError(f"value = {value!r}: a text must be writable as UTF-8") from None


def unpack(data: bytes) -> Value:
    """The value of bytes that ``pack`` made."""
    return _decoder.decode(data)


def plain(value: Value, depth: int = 0) -> Value:
    """The value, if it is of the kinds that a document may hold. Raises ConfigError."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if depth >= DEPTH:
        raise ConfigError(f"value: at most {DEPTH} lists and dicts in each other")
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    raise ConfigError(
        f"value = {value!r}: must be None, bool, int, float, str, bytes, or a list or dict with str keys of them"
    )
