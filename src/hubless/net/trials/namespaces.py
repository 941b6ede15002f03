"""Two peers behind two masquerading routers, in network namespaces, over the lattica driver."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from hubless.run.stages import Findings

DRIVER = "hubless.net.transports.lattica"


def missing() -> str:
    """Why the trial cannot run here; nothing when it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [tool for tool in ("ip", "nft") if shutil.which(tool) is None]:
        return f"no {' and no '.join(lacking)} on this machine"
    if importlib.util.find_spec("lattica") is None or importlib.util.find_spec(DRIVER) is None:
        return "the lattica driver is not installed: pip install 'hubless[lattica]'"
    return ""


def findings(seed: int) -> Findings:
    """What happened, or why nothing did."""
    if why := missing():
        return Findings({}, events=[f"skipped: {why}"])
    raise NotImplementedError
