"""Where and by which command a run was made."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hubless import __version__


def versions() -> dict[str, str]:
    """Versions of hubless, Python and the packages that results depend on, without importing them."""
    found = {"hubless": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """System, processor, cores and memory in GB; no name of the machine or its user."""
    facts: dict[str, Any] = {"system": platform.platform(), "processor": _processor(), "cores": cores()}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    return facts


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def command() -> str:
    """The command line of this process, ready to be pasted into a shell."""
    program, *arguments = sys.orig_argv[:1] + sys.argv[1:] if not sys.argv[0] else sys.argv
    name = Path(program).name
    words = ["hubless"] if name in ("hubless", "__main__.py") else ["python", program]
    return shlex.join(words + arguments)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
