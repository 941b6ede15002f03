"""Seconds a round of one experiment in one process, in processes and in Ray actors, with one worker and with two.

    python benchmarks/backends.py --peers 200 --rounds 5 --workers 1,2 --recipe dsgd

Left out are the first round, in which workers trace their kernels, and the last, which is evaluated. Starting them is a
column of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time

from hubless.run.source import find_recipe

OPTIONS = {
    "dsgd": {"topology": "random-regular:4", "data": "synthetic:samples=20000:features=64", "model": "mlp:128"},
    "fedavg": {"data": "synthetic:samples=20000:features=64", "model": "mlp:128"},
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=[*OPTIONS], default="dsgd")
    parser.add_argument("--peers", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--backends", default="in-process,processes,ray")
    given = parser.parse_args()
    print(f"{given.recipe}, {given.peers} peers, {given.steps} steps; median of rounds 2 to {given.rounds - 1}\n")
    print(f"{'backend':<12}{'workers':>8}{'start s':>9}{'round s':>9}{'records':>9}")
    for workers in map(int, given.workers.split(",")):
        first: list[str] = []
        for backend in given.backends.split(","):
            seconds, starting, lines = measure(given, backend, workers)
            first = first or lines
            same = "equal" if lines == first else "differ"
            print(f"{backend:<12}{workers:>8}{starting:>9.1f}{seconds:>9.3f}{same:>9}", flush=True)


def measure(given: argparse.Namespace, backend: str, workers: int) -> tuple[float, float, list[str]]:
    """Median seconds of a round, seconds to the first record, and the records."""
    own: dict[str, object] = {"threads": workers}  # on which a star's sums depend, in the last bits
    if backend != "in-process":
        own |= {"backend": backend, "workers": workers}
    options = {"peers": given.peers, "steps": given.steps, "rounds": given.rounds, "evaluate": given.rounds}
    run = find_recipe(given.recipe).build({**OPTIONS[given.recipe], **options, "batch": 32, **own})
    lines, times = [], []
    begun = time.perf_counter()
    for record in run.records():
        now = time.perf_counter()
        lines.append(record.line())
        if record.kind in ("start", "round"):
            times.append((record.round, now - begun))
            begun = time.perf_counter()
    rounds = [seconds for t, seconds in times if 1 < t < given.rounds]
    return statistics.median(rounds or [0.0]), times[0][1], lines


if __name__ == "__main__":
    main()
