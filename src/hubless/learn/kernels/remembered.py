"""Decisions that took measuring, kept on disk so that the same machine always decides the same way."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from contextlib import suppress
from functools import cache as once
from pathlib import Path

import torch

from hubless.data.fetch import cache


@once
def machine() -> str:
    """The processor and the torch that measurements belong to."""
    text = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text = "".join(line for line in dict.fromkeys(lines) if line.startswith(("model name", "flags", "Features")))
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{platform.machine()} {digest} torch {torch.__version__}"


def _file() -> Path:
    return cache() / "kernels.json"


def _read() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):  # missing or damaged: measure again
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def recall(key: str) -> str | None:
    """What was decided on this machine under a key."""
    return _read().get(f"{machine()} | {key}")


def remember(key: str, value: str) -> str:
    """Keep a decision, and return the one that holds: another process may have been first.

    A cache that cannot be written costs another measurement next time, and nothing else.
    """
    with suppress(OSError):
        known = _read()
        value = known.setdefault(f"{machine()} | {key}", value)
        _file().parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=_file().parent, prefix="kernels-", suffix=".part")
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(known, stream, indent=1, sort_keys=True)
            os.replace(name, _file())
        except OSError:
            os.unlink(name)
            raise
    return value
