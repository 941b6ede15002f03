"""Two peers behind two real routers, over the lattica driver; where one of the things it needs is missing, which one.

The routers masquerade: first as cones, which keep a peer's port, then symmetric, which take another port for every
destination. The peers meet at a libp2p relay, and punch a hole; where there can be none, the SDK makes no calls, and
frames go sealed through a relay of ours.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hubless.net.transports.libp2p_names import base58_id
from hubless.net.trials.punching import CALL, CARRIED, CARRIER, FRAMES, PUNCH
from hubless.net.trials.routers import KINDS, STEP, Bench, Spoken
from hubless.run.stages import Findings

MEETING = "11.0.0.1"  # addresses that look public: libp2p does not dial others
CALLS = 20  # each way
FOLDER = "HUBLESS_JS_LIBP2P"  # where js-libp2p is installed
PACKAGES = (
    "libp2p@3", "@libp2p/tcp@11", "@chainsafe/libp2p-noise@17", "@chainsafe/libp2p-yamux@8", "@libp2p/identify@4",
    "@libp2p/circuit-relay-v2@4",
)  # fmt: skip
WAYS = ("direct", "relayed", "none")


def missing(*, driver: bool = True) -> str | None:
    """What the trial lacks on this machine; ``driver``: among the SDK and its relay, or only to have routers at all."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [tool for tool in ("ip", "nft", *["node"] * driver) if shutil.which(tool) is None]:
        return f"no {' and no '.join(lacking)} on this machine"
    if driver and importlib.util.find_spec("lattica_python_core") is None:
        return "the lattica driver is not installed: pip install 'hubless[lattica]'"
    if driver and not _relay_folder():
        return (
            f"no libp2p relay, at which peers behind routers meet: npm install {' '.join(PACKAGES)}, in a folder that "
            f"{FOLDER} names"
        )
    name = f"hlprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False, timeout=STEP)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False, timeout=STEP)
    return "network namespaces cannot be made here" if made.returncode else None


def findings(seed: int) -> Findings:
    """How the two reach each other, and how many of their calls were right; or why that was not tried."""
    if lacking := missing():
        return Findings({}, events=[f"skipped: {lacking}"])
    metrics: dict[str, float] = {}
    rows, troubles = [], []
    for kind in KINDS:
        try:
            told = between(kind, seed)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            told = []
            troubles.append(f"{kind} routers: not finished: {_words(error)}")
        right = sum(one["right"] for one in told)
        ways = [sum(one["reach"] == way for one in told) for way in WAYS]
        rows.append([kind, *ways, right, 2 * CALLS])
        metrics |= {f"{way}_{kind}": count for way, count in zip(WAYS, ways, strict=True)}
        metrics[f"calls_right_{kind}"] = right / (2 * CALLS)
        troubles += [f"{kind} routers: {text}" for one in told for text in one["refused"][:1]]
    table = {
        "type": "table", "title": "Two peers behind two routers: how each reaches the other",
        "columns": ["routers", *WAYS, "calls answered right", "of"], "rows": rows,
    }  # fmt: skip
    return Findings(metrics, figures=[table], events=troubles)


def between(kind: str, seed: int, calls: int = CALLS) -> list[dict[str, Any]]:
    """What two peers say of each other: ``reach``, calls answered ``right``, and the words of those ``refused``.

    kind: of both routers, see ``KINDS``. Raises OSError, SubprocessError, ValueError.
    """
    with Bench() as bench:
        bench.open("relay", MEETING)
        bench.router("a", "11.0.0.10", "10.1.0", kind)
        bench.router("b", "11.0.0.20", "10.2.0", kind)
        meeting = libp2p_relay(bench, "relay", MEETING, FRAMES)
        at = meeting.hear()[0]
        given: dict[str, Any] = {"seed": seed, "lattica": [at], "known": [], "carrier": f"{MEETING}:{CARRIED}"}
        peer(bench, "relay", {**given, "index": CARRIER, "host": MEETING, "carrier": ""}).hear()
        second = peer(bench, "b", {**given, "index": 2, "host": "10.2.0.2"})
        other = second.hear(CALL + STEP)
        name = base58_id(other[0])
        _slot(meeting, name)
        known = [f"{at}/p2p-circuit/p2p/{name}"]  # whoever is dialled must have a slot by then
        first = peer(bench, "a", {**given, "index": 1, "host": "10.1.0.2", "known": known})
        one = first.hear(CALL + STEP)
        for process, whom in ((first, other), (second, one)):
            around = [address for address in whom[1] if address.startswith("relay:")]
            process.tell([whom[0], around, calls])
        return [process.hear(2 * PUNCH + calls * CALL) for process in (first, second)]


def libp2p_relay(bench: Bench, name: str, host: str, port: int) -> Spoken:
    """A relay of js-libp2p in a namespace; it says its addresses first."""
    source = (Path(__file__).parent / "relay.mjs").read_text(encoding="utf-8")
    command = ["node", "--input-type=module", "--eval", source, "--", host, str(port)]
    return bench.start(name, *command, folder=_relay_folder())


def peer(bench: Bench, name: str, given: dict[str, Any]) -> Spoken:
    """A peer's process in a namespace, see ``punching``; it says its id and its addresses first."""
    return bench.start(name, sys.executable, "-m", "hubless.net.trials.punching", json.dumps(given))


def _slot(meeting: Spoken, name: str) -> None:
    """Wait until the relay has a slot for a peer, without which nobody is connected to it."""
    end = time.monotonic() + STEP
    while name not in meeting.hear(max(end - time.monotonic(), 0.0)):
        pass


def _relay_folder() -> str:
    """Where node finds js-libp2p with its relay; "" where it does not."""
    folder = os.environ.get(FOLDER, "")
    return folder if folder and (Path(folder) / "node_modules" / "@libp2p" / "circuit-relay-v2").is_dir() else ""


def _words(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return str(said).strip().partition("\n")[0][:200]
