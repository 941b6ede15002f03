"""Python's own standard library as text for byte-level language models: on every machine, no download."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError, DataError

MODULES = "argparse,asyncio,collections,csv,email,http,inspect,json,logging,typing"
HELD_OUT = 0.1

Tokens = NDArray[np.int64]


def windows(length: int, modules: Sequence[str]) -> tuple[Tokens, Tokens, Tokens, Tokens]:
    """Windows of ``length`` bytes of the modules' source: x [M, L], y [M, L] the byte after each, then the test's.

    Windows do not overlap. The last tenth of every file is the test, so that no test window is seen in training.
    """
    train: list[NDArray[np.uint8]] = []
    test: list[NDArray[np.uint8]] = []
    for path in [path for module in modules for path in files(module)]:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        cut = len(data) - int(HELD_OUT * len(data))
        train.append(_windows(data[:cut], length))
        test.append(_windows(data[cut:], length))
    both = [np.concatenate(part).astype(np.int64) for part in (train, test)]
    for part, what in zip(both, ("training", "test"), strict=True):
        if not len(part):
            raise ConfigError(
                f"text: window = {length} leaves no {what} window in {','.join(modules)}; take a smaller one"
            )
    return both[0][:, :-1], both[0][:, 1:], both[1][:, :-1], both[1][:, 1:]


def _windows(data: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Rows of length + 1 bytes, each starting at the last byte of the one before it."""
    count = max(0, (len(data) - 1) // length)
    rows: NDArray[np.uint8] = data[np.arange(count)[:, None] * length + np.arange(length + 1)]
    return rows


def files(module: str) -> list[Path]:
    """Source files of a module of the standard library; raises ConfigError for an unknown one, DataError for none."""
    library = Path(sysconfig.get_path("stdlib"))
    if not module.isidentifier():
        raise ConfigError(f"text: {module!r} is not the name of a module of the standard library")
    if not (library / "os.py").is_file():
        raise DataError("text: this Python keeps no source of its standard library on disk")
    single = library / f"{module}.py"
    found = [single] if single.is_file() else sorted((library / module).glob("*.py"))
    if not found:
        raise ConfigError(f"text: the standard library has no Python source of a module {module!r}")
    return found
