"""Seconds a round, side by side: hubless, a plain PyTorch loop, pfl, Flower, FedLab and gossipy, in one run.

    python benchmarks/learning.py --work MLP-100,MLP-1000 --peers naive,pfl,flower --rounds 5 --blocks 2 --json out.json

Every contestant gets the same samples, batches, first weights and optimiser (``anchors/work.py``) and runs in a
process of its own, with one torch thread a process or worker; hubless takes all cores, Flower two, pfl is measured
in one process and in two. Contestants take turns, block after block, so that a machine that slows down slows down
for all. A ratio is a contestant's median round over that of hubless with the same scheme, FedAvg or gossip.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
import prepare
from anchors.work import WORKS

HERE = Path(__file__).parent
LIMIT = 3600


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison: which script, by which interpreter, in how many processes."""

    name: str
    peer: str
    script: str
    gossip: bool = False
    processes: int = 1

    def command(self, work: str, rounds: int) -> list[str]:
        python = environments.python(self.peer) if self.peer in environments.FRAMEWORKS else Path(sys.executable)
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        start = launcher if self.processes > 1 else []
        return [str(python), *start, "-m", f"anchors.{self.script}", "--work", work, f"--rounds={rounds}"]


CONTESTANTS = (
    Contestant("hubless", "ours", "ours"),
    Contestant("naive", "naive", "naive"),
    Contestant("pfl", "pfl", "pfl"),
    Contestant("pfl, 2 processes", "pfl", "pfl", processes=2),
    Contestant("flower", "flower", "flower"),
    Contestant("fedlab", "fedlab", "fedlab"),
    Contestant("hubless gossip", "ours", "ours_gossip", gossip=True),
    Contestant("naive gossip", "naive", "naive_gossip", gossip=True),
    Contestant("gossipy", "gossipy", "gossipy", gossip=True),
)
PEERS = tuple(dict.fromkeys(contestant.peer for contestant in CONTESTANTS))


def main() -> int:
    options = arguments()
    chosen = [contestant for contestant in CONTESTANTS if contestant.peer in options.peers]
    for data in {WORKS[work].data for work in options.work}:
        prepare.pixels(data)
    lines: list[dict[str, Any]] = []
    failed = False
    for work in options.work:
        for line in measure(work, chosen, options.rounds, options.blocks):
            failed |= "error" in line
            lines.append(line)
            if options.json:
                Path(options.json).write_text(json.dumps({"machine": machine(), "lines": lines}, indent=1) + "\n")
        print(table(work, chosen, [line for line in lines if line["work"] == work]), flush=True)
    return int(failed)


def arguments() -> argparse.Namespace:
    def names(allowed: tuple[str, ...]) -> Any:
        def split(text: str) -> list[str]:
            found = text.split(",")
            for name in found:
                if name not in allowed:
                    raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(allowed)}")
            return found

        return split

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=names(tuple(WORKS)), default=["MLP-100"], help=f"of {', '.join(WORKS)}")
    parser.add_argument("--peers", type=names(PEERS), default=list(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one of warm-up")
    parser.add_argument("--blocks", type=int, default=1, help="turns of every contestant")
    parser.add_argument("--json", help="file for every line and the machine")
    return parser.parse_args()


def measure(work: str, chosen: list[Contestant], rounds: int, blocks: int) -> Iterator[dict[str, Any]]:
    """One line a run; a contestant that fails yields a line with its error, and the others go on."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore"}
    for block in range(blocks):
        for contestant in chosen:
            print(f"{work}, block {block + 1} of {blocks}: {contestant.name}", file=sys.stderr, flush=True)
            line: dict[str, Any] = {"framework": contestant.name, "work": work, "block": block}
            try:
                command = contestant.command(work, rounds)
                done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=LIMIT)
                printed = [text for text in done.stdout.splitlines() if text.startswith("{")]
                if done.returncode or not printed:
                    raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
                line = {**json.loads(printed[-1]), **line}
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                line["error"] = str(error)
                print(f"{contestant.name} failed: {error}", file=sys.stderr, flush=True)
            yield line


def table(work: str, chosen: list[Contestant], lines: list[dict[str, Any]]) -> str:
    """Medians over all rounds of all blocks; ratios to hubless with the same scheme."""
    medians: dict[str, dict[str, float]] = {}
    for contestant in chosen:
        own = [line for line in lines if line["framework"] == contestant.name and "error" not in line]
        if own:
            medians[contestant.name] = {
                "wall": statistics.median(value for line in own for value in line["seconds_per_round"]),
                **{
                    short: statistics.median(line[name] for line in own)
                    for short, name in (
                        ("cpu", "cpu_seconds_per_round"),
                        ("start", "start_up_seconds"),
                        ("peak", "peak_rss_mb"),
                        ("pss", "pss_mb"),
                        ("accuracy", "accuracy"),
                        ("rounds", "rounds"),
                    )
                },
            }
    rows = [
        f"{work}: {WORKS[work].peers} peers x {WORKS[work].samples} samples",
        f"{'':<18}{'s/round':>9}{'ratio':>8}{'CPU s':>9}{'ratio':>8}{'start s':>9}{'peak MB':>9}{'PSS MB':>9}"
        "  accuracy",
    ]
    for contestant in chosen:
        if contestant.name not in medians:
            rows.append(f"{contestant.name:<18}{'failed':>9}")
            continue
        m = medians[contestant.name]
        ours = medians.get("hubless gossip" if contestant.gossip else "hubless")
        wall, cpu = (f"{m[key] / ours[key]:.2f}" if ours else "-" for key in ("wall", "cpu"))
        rows.append(
            f"{contestant.name:<18}{m['wall']:>9.3f}{wall:>8}{m['cpu']:>9.3f}{cpu:>8}{m['start']:>9.2f}"
            f"{m['peak']:>9.0f}{m['pss']:>9.0f}  {m['accuracy']:.4f} ({m['rounds']:.0f} rounds)"
        )
    return "\n".join(rows) + "\n"


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    from importlib.metadata import version

    return {
        "platform": platform.platform(),
        "processor": next(
            (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
        ),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "load": os.getloadavg()[0],
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
