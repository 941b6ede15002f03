"""The clock: wall time, processor time and memory of one contestant, as one line of JSON.

A framework decides itself how it loops, so it calls ``tick`` before its first round and after each one. The
first round warms up and counts as start-up. Processor time and memory are those of the whole process tree:
worker processes belong to the framework that started them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from anchors.work import WORKS, Work

TICKS = os.sysconf("SC_CLK_TCK")


def arguments() -> tuple[Work, int]:
    """The work and the number of measured rounds, from the command line; one thread in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    return WORKS[given.work], given.rounds


def tree() -> list[int]:
    """This process and all its descendants; under torchrun, its siblings too, but not the launcher."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    root = os.getppid() if "LOCAL_RANK" in os.environ else os.getpid()
    found = [pid for pid, parent in parents.items() if parent == root] if root != os.getpid() else [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def processor() -> float:
    """Processor seconds used so far by the tree."""
    used = time.process_time()
    for pid in tree():
        if pid != os.getpid():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            used += (int(fields[11]) + int(fields[12])) / TICKS
    return used


def memory(file: str, name: str) -> float:
    """The sum over the tree of one line of a ``/proc`` file, in MB."""
    total = 0.0
    for pid in tree():
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
    return total


@dataclass
class Meter:
    """Measures one contestant; made once the data is in memory and before the framework sets itself up."""

    framework: str
    work: Work
    rounds: int
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    made: float = field(default_factory=time.perf_counter)
    ready: float = 0.0
    started: float = 0.0

    @property
    def total(self) -> int:
        """Rounds to run: the warm-up and the measured ones."""
        return self.rounds + 1

    def tick(self) -> None:
        """A round ends here and the next one begins."""
        now = time.perf_counter()
        if not self.ready:
            self.ready = now
        else:
            self.seconds.append(now - self.started)
        if len(self.seconds) in (1, self.total):
            self.processor.append(processor())
        self.started = time.perf_counter()

    def report(self, accuracy: float, peak_mb: float | None = None) -> None:
        """Print the line.

        ``peak_rss_mb`` adds up the peak of every process, which counts shared pages more than once; ``pss_mb``, taken
        at the end, does not. ``start_up_seconds`` leaves out imports and loading, and holds what the warm-up
        round took beyond a usual one.
        """
        warm_up, *measured = self.seconds
        usual = statistics.median(measured)
        line = {
            "framework": self.framework,
            "work": self.work.name,
            "seconds_per_round": [round(value, 5) for value in measured],
            "cpu_seconds_per_round": round((self.processor[1] - self.processor[0]) / self.rounds, 5),
            "peak_rss_mb": round(memory("status", "VmHWM") if peak_mb is None else peak_mb, 1),
            "pss_mb": round(memory("smaps_rollup", "Pss"), 1),
            "accuracy": round(accuracy, 4),
            "rounds": self.total,
            "start_up_seconds": round(self.ready - self.made + max(0.0, warm_up - usual), 3),
        }
        print(json.dumps(line), flush=True)
