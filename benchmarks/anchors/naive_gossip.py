"""The plain PyTorch loop for gossip: a model a peer, one local epoch each, then the mean of five neighbours."""

from __future__ import annotations

import copy
import statistics

import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from anchors import work as common
from anchors.meter import Meter, arguments


def main() -> None:
    work, rounds = arguments()
    batches = common.batches(work)
    circles = [[peer, *others] for peer, others in enumerate(common.neighbours(work))]
    meter = Meter("naive gossip", work, rounds)
    first = common.model(work)
    networks = [copy.deepcopy(first) for _ in range(work.peers)]
    meter.tick()
    for _ in range(meter.total):
        for network, own in zip(networks, batches, strict=True):
            common.epoch(network, own, work.lr)
        with torch.no_grad():
            said = [parameters_to_vector(network.parameters()) for network in networks]
            for network, circle in zip(networks, circles, strict=True):
                vector_to_parameters(torch.stack([said[peer] for peer in circle]).mean(0), network.parameters())
        meter.tick()
    meter.report(statistics.fmean(common.accuracy(networks[peer], work) for peer in common.judged(work.peers)))


if __name__ == "__main__":
    main()
