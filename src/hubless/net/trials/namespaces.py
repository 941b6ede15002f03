"""Whether two peers behind two real routers could be tried here, over the lattica driver; and if not, why not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

from hubless.run.stages import Findings


def missing() -> str:
    """What the trial lacks on this machine. A libp2p relay is always among it: neither we nor the driver bring one."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [tool for tool in ("ip", "nft") if shutil.which(tool) is None]:
        return f"no {' and no '.join(lacking)} on this machine"
    if importlib.util.find_spec("lattica") is None:
        return "the lattica driver is not installed: pip install 'hubless[lattica]'"
    return "no libp2p relay, which the driver needs to meet a peer behind a router"


def findings(seed: int) -> Findings:
    """Nothing but the reason."""
    return Findings({}, events=[f"skipped: {missing()}"])
