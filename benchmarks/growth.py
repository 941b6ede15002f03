"""How hubless grows: seconds a round and memory from 10 to 5,000 peers, MNIST dealt out among them.

    python benchmarks/growth.py --peers 10,100,1000,5000 --rounds 5 --json growth.json

FedAvg keeps one model for everybody, so memory should not depend on the number of peers; gossip keeps a model a
peer, twice. Memory a peer is what each further peer adds to the peak, counted from the smallest population.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import prepare
from anchors.work import WORKS
from learning import Contestant, machine, measure

SIZES = {work.peers: name for name, work in WORKS.items() if work.model == "mlp"}
SCHEMES = (Contestant("hubless", "ours", "ours"), Contestant("hubless gossip", "ours", "ours_gossip", gossip=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(map(str, SIZES)), help=f"of {', '.join(map(str, SIZES))}")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one of warm-up")
    parser.add_argument("--json", help="file for every line and the machine")
    options = parser.parse_args()
    wanted = options.peers.split(",")
    if unknown := [size for size in wanted if size not in map(str, SIZES)]:
        parser.error(f"--peers: {unknown[0]!r} is not one of {', '.join(map(str, SIZES))}")
    sizes = sorted(map(int, wanted))
    prepare.pixels("mnist")
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for size in sizes:
        for line in measure(SIZES[size], list(SCHEMES), options.rounds, blocks=1):
            lines[line["framework"], size] = line
    print(table(lines, sizes))
    if options.json:
        text = json.dumps({"machine": machine(), "lines": list(lines.values())}, indent=1)
        Path(options.json).write_text(text + "\n")
    return int(any("error" in line for line in lines.values()))


def table(lines: dict[tuple[str, int], dict[str, Any]], sizes: list[int]) -> str:
    """One row a scheme and size."""
    rows = [f"{'':<16}{'peers':>7}{'s/round':>10}{'CPU s':>9}{'peak MB':>10}{'kB a peer':>11}"]
    for scheme in SCHEMES:
        base = lines[scheme.name, sizes[0]]
        for size in sizes:
            line = lines[scheme.name, size]
            if "error" in line:
                rows.append(f"{scheme.name:<16}{size:>7}{'failed':>10}")
                continue
            seconds = sorted(line["seconds_per_round"])[len(line["seconds_per_round"]) // 2]
            more = "-"
            if size > sizes[0] and "error" not in base:
                more = f"{(line['peak_rss_mb'] - base['peak_rss_mb']) * 1024 / (size - sizes[0]):.0f}"
            rows.append(
                f"{scheme.name:<16}{size:>7}{seconds:>10.3f}{line['cpu_seconds_per_round']:>9.3f}"
                f"{line['peak_rss_mb']:>10.0f}{more:>11}"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
