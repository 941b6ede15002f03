"""The plain PyTorch loop that a newcomer would write: one model, one peer after another, a mean at the end."""

from __future__ import annotations

import torch

from anchors import work as common
from anchors.meter import Meter, arguments


def main() -> None:
    work, rounds = arguments()
    batches = common.batches(work)
    meter = Meter("naive", work, rounds)
    network = common.model(work)
    parameters = list(network.parameters())
    meter.tick()
    for _ in range(meter.total):
        start = [p.detach().clone() for p in parameters]
        total = [torch.zeros_like(p) for p in start]
        for own in batches:
            with torch.no_grad():
                for p, value in zip(parameters, start, strict=True):
                    p.copy_(value)
            common.epoch(network, own, work.lr)
            for into, p in zip(total, parameters, strict=True):
                into += p.detach()
        with torch.no_grad():
            for p, value in zip(parameters, total, strict=True):
                p.copy_(value / work.peers)
        meter.tick()
    meter.report(common.accuracy(network, work))


if __name__ == "__main__":
    main()
