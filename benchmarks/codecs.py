"""Codecs on real updates: bytes, speed, error, and what a population learns through them.

    python benchmarks/codecs.py --codecs raw,float16,fedzip:0.05 --rounds 15 --json codecs.json

Updates are those of ``hubless run fedzip`` (10 peers, MNIST, a perceptron of 101,770 parameters), one of every peer in
its first, middle and last round. MB are 10^6 bytes of the raw update, whatever the codec makes of them; a speed is the
best of several passes over all updates, in processor seconds of one thread. The error is that of one update, without
what error feedback makes good later. Accuracy is that of the whole run with that codec.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hubless import catalogue
from hubless.learn import Codec, Context, Message, Model, Stage
from hubless.learn.codecs import Raw
from hubless.parts import make
from learning import machine

CODECS = ("raw", "huffman", "deflate", "zstd", "zstd:19", "float16", "bfloat16", "uniform:8", "uniform:8+huffman",
          "uniform:4", "stochastic:8", "stochastic:4", "k-means:16", "top-k:0.2", "top-k:0.05", "top-k:0.01",
          "top-k:0.05+float16+zstd", "error-feedback+top-k:0.01", "threshold:0.01", "fedzip:0.2", "fedzip:0.05",
          "fedzip:0.01", "fedzip:0.05:way=label", "fedzip:0.05:way=address", "fedzip:0.05:way=gap",
          "fedzip:0.05:snap_zero=true", "error-feedback+fedzip:0.05", "error-feedback+fedzip:0.01")  # fmt: skip


@dataclass(frozen=True)
class Listening(Stage):
    """Keeps every update of some rounds, with the context that it was coded in."""

    rounds: tuple[int, ...]
    heard: list[tuple[Message, Context]] = field(default_factory=list)

    wants = "delta"

    def forward(self, m: Message, s: dict[str, torch.Tensor], ctx: Context) -> tuple[Message, dict[str, torch.Tensor]]:
        if ctx.t in self.rounds:
            self.heard.append(({name: value.clone() for name, value in m.items()}, ctx))
        return m, s


def updates(rounds: int) -> list[tuple[Message, Context]]:
    """Real ones."""
    stage = Listening((1, (rounds + 1) // 2, rounds))
    experiment = catalogue.find("fedzip").load().build({"rounds": rounds, "codec": Codec((stage,)), "threads": 1})
    list(experiment.records())
    return stage.heard


def best(work: Callable[[], Any], passes: int) -> float:
    """Least processor seconds of several passes."""
    seconds = []
    for _ in range(passes):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def measure(name: str, heard: list[tuple[Message, Context]], passes: int) -> dict[str, Any]:
    """Bytes, speeds and error of one codec on updates."""
    codec: Codec = make("codec", name)
    model: Model = heard[0][1].model
    s = model.state()
    for stage in codec.stages:
        s |= stage.init(model)
    packets = [codec.encode(m, s, ctx)[0] for m, ctx in heard]
    size = sum(Raw().length(m) for m, _ in heard)
    back = [codec.decode(data, ctx) for data, (_, ctx) in zip(packets, heard, strict=True)]
    lost = sum(float((a["w"] - b["w"]).square().sum()) for a, (b, _) in zip(back, heard, strict=True))
    whole = sum(float(m["w"].square().sum()) for m, _ in heard)
    coding = best(lambda: [codec.encode(m, s, ctx) for m, ctx in heard], passes)
    decoding = best(lambda: [codec.decode(data, ctx) for data, (_, ctx) in zip(packets, heard, strict=True)], passes)
    sent = sum(map(len, packets))
    return {
        "codec": name, "bytes": sent / len(heard), "ratio": size / sent, "error": (lost / whole) ** 0.5,
        "encode_mb_per_s": size / coding / 1e6, "decode_mb_per_s": size / decoding / 1e6,
        "encode_ms": 1e3 * coding / len(heard), "decode_ms": 1e3 * decoding / len(heard),
    }  # fmt: skip


def accuracy(name: str, rounds: int) -> float:
    """Of the whole run, on the test set."""
    experiment = catalogue.find("fedzip").load().build({"rounds": rounds, "codec": name, "threads": 1})
    return float(list(experiment.records())[-1].metrics["accuracy"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", default=",".join(CODECS), help="names, with commas in between")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the runs")
    parser.add_argument("--passes", type=int, default=5, help="passes over the updates for a speed")
    parser.add_argument("--json", help="file for every line and the machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heard = updates(options.rounds)
    print(f"{len(heard)} updates of {Raw().length(heard[0][0]):,} raw bytes")
    print(f"{'':<30}{'bytes':>9}{'ratio':>8}{'error':>8}{'encode':>14}{'decode':>14}{'accuracy':>10}")
    lines = []
    for name in options.codecs.split(","):
        line = measure(name, heard, options.passes) | {"accuracy": accuracy(name, options.rounds)}
        lines.append(line)
        print(
            f"{name:<30}{line['bytes']:>9.0f}{line['ratio']:>8.2f}{line['error']:>8.3f}"
            f"{line['encode_mb_per_s']:>9.0f} MB/s{line['decode_mb_per_s']:>9.0f} MB/s{line['accuracy']:>10.4f}",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "lines": lines}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
