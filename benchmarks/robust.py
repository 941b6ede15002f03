"""Seconds and memory of every robust merge for one inbox, on one thread: 100 messages of 160,000 parameters.

    python benchmarks/robust.py --messages 100 --size 160000 --only krum,flame --flower --json out.json

Each merge runs in a process of its own: once to warm up, then ``--times`` times, of which the median counts. Memory is
the peak of the process over what it held with all messages in hand. Beside ours stand Krum as one would write it first,
pair by pair, and with ``--flower`` that of Flower (in an environment that is made when it is missing); all must choose
the same message.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
OURS = (
    "mean", "median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "norm-clip", "centred-clip",
    "clipped-gossip", "foolsgold", "flame",
)  # fmt: skip
PLAIN, FLOWER = "krum, pair by pair", "krum, Flower"
HOSTILE = 20  # percent
Rows = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--size", type=int, default=160_000, help="parameters of a message")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--only", help=f"of {', '.join(OURS)}")
    parser.add_argument("--flower", action="store_true", help="measure Flower's Krum, too")
    parser.add_argument("--json", help="file for every line and the machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(options.worker, options.messages, options.size, options.times)))
        return 0
    names = options.only.split(",") if options.only else [*OURS, PLAIN]
    lines = [run(name, options) for name in [*names, *([FLOWER] if options.flower else [])]]
    print(table(lines, options))
    if options.json:
        from learning import machine

        Path(options.json).write_text(json.dumps({"machine": machine(), "lines": lines}, indent=1) + "\n")
    krums = {line["chosen"] for line in lines if line["name"] in ("krum", PLAIN, FLOWER)}
    return int(any("error" in line for line in lines) or len(krums) > 1)


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One line, or its error."""
    python = Path(sys.executable)
    if name == FLOWER:
        import environments

        python = environments.python("flower")
    sizes = [f"--messages={options.messages}", f"--size={options.size}", f"--times={options.times}"]
    command = [str(python), str(HERE / "robust.py"), "--worker", name, *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    printed = [text for text in done.stdout.splitlines() if text.startswith("{")]
    if done.returncode or not printed:
        return {"name": name, "error": done.stderr.strip()[-300:], "chosen": None}
    line: dict[str, Any] = json.loads(printed[-1])
    return line


def messages(count: int, size: int) -> Rows:
    """Updates that agree in part; the last of them hostile, with the sign turned and five times as long."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((count, size), dtype=np.float32)
    rows += draw.standard_normal(size, dtype=np.float32)
    rows[count - hostile(count) :] *= -5
    return rows


def hostile(count: int) -> int:
    return count * HOSTILE // 100


def measured(name: str, count: int, size: int, times: int) -> dict[str, Any]:
    """In the worker: seconds, extra memory in MB, and which message was chosen where one was."""
    rows = messages(count, size)
    once = {PLAIN: pair_by_pair, FLOWER: flower}.get(name, ours)(name, rows)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        answer = once()
        seconds.append(time.perf_counter() - began)
    peak = memory("VmHWM") - before
    equal = np.flatnonzero((rows == answer).all(axis=1))
    return {
        "name": name, "seconds": statistics.median(seconds[1:]), "all_seconds": seconds, "extra_mb": peak,
        "chosen": int(equal[0]) if len(equal) else None,
    }  # fmt: skip


def memory(entry: str) -> float:
    """In MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024


def ours(name: str, rows: Rows) -> Callable[[], Rows]:
    import torch
    from torch import nn

    from hubless.learn import Context, Inbox, Model
    from hubless.parts import make

    model = Model(lambda: nn.Linear(rows.shape[1], 1, bias=False), name="row")
    inbox = Inbox(tuple(range(len(rows))), torch.ones(len(rows)), [{"w": torch.from_numpy(row)} for row in rows])
    ctx = Context(t=1, N=len(rows), model=model, slope=None, phase="up", kind="delta", peer=0)  # type: ignore[arg-type]
    bounded = name in ("krum", "multi-krum")
    reduce = make("merge", f"{name}:{hostile(len(rows))}" if bounded else name).reduce

    def once() -> Rows:
        answer: Rows = reduce(inbox, inbox.messages[0]["w"], {}, {}, ctx)["w"].numpy()
        return answer

    return once


def pair_by_pair(name: str, rows: Rows) -> Callable[[], Rows]:
    import torch

    values, f = torch.from_numpy(rows), hostile(len(rows))

    def once() -> Rows:
        scores = []
        for i in range(len(values)):
            others = [float((values[i] - values[j]).square().sum()) for j in range(len(values)) if j != i]
            scores.append(sum(sorted(others)[: len(values) - f - 2]))
        chosen: Rows = rows[int(np.argmin(scores))]
        return chosen

    return once


def flower(name: str, rows: Rows) -> Callable[[], Rows]:
    from flwr.server.strategy.aggregate import aggregate_krum  # type: ignore[import-not-found]

    results = [([row], 1) for row in rows]

    def once() -> Rows:
        chosen: Rows = aggregate_krum(results, hostile(len(rows)), 0)[0]
        return chosen

    return once


def table(lines: list[dict[str, Any]], options: argparse.Namespace) -> str:
    share = hostile(options.messages)
    rows = [
        f"{options.messages} messages of {options.size:,} parameters, {share} of them hostile; one thread",
        f"{'':<22}{'seconds':>9}{'extra MB':>10}  chosen",
    ]
    for line in lines:
        if "error" in line:
            rows.append(f"{line['name']:<22}{'failed':>9}  {line['error'].splitlines()[-1]}")
        else:
            chosen = "" if line["chosen"] is None else line["chosen"]
            rows.append(f"{line['name']:<22}{line['seconds']:>9.2f}{line['extra_mb']:>10.0f}  {chosen}")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
