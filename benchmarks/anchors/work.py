"""The common work: data, split, model and stopping rule that every contestant gets alike.

Everybody is fed batches cut beforehand, in a fixed order, so that no framework pays for a data loader; the
last, smaller batch is kept. This module needs only numpy and torch: it is imported in every environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).parents[1] / ".data"
MEAN, SPREAD = 0.1307, 0.3081
JUDGED = 50

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """Peers, their samples, and what they train; ``lr`` and one local epoch of plain SGD are the same for all."""

    name: str
    data: Literal["mnist", "digits"]
    model: Literal["mlp", "cnn-s", "tiny"]
    peers: int
    samples: int
    batch: int
    lr: float = 0.1


WORKS = {
    work.name: work
    for work in (
        Work("MLP-10", "mnist", "mlp", peers=10, samples=6000, batch=32),
        Work("MLP-100", "mnist", "mlp", peers=100, samples=600, batch=32),
        Work("MLP-1000", "mnist", "mlp", peers=1000, samples=60, batch=32),
        Work("MLP-5000", "mnist", "mlp", peers=5000, samples=12, batch=32),
        Work("CNN-S", "mnist", "cnn-s", peers=100, samples=600, batch=32),
        Work("TINY-1000", "digits", "tiny", peers=1000, samples=20, batch=10),
    )
}


def model(work: Work, seed: int = 0) -> nn.Module:
    """The network of ``work``: the same initial weights in every framework."""
    torch.manual_seed(seed)
    if work.model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
    if work.model == "tiny":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return nn.Sequential(
        nn.Conv2d(1, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


@cache
def load(data: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; images [n, 1, side, side], normalised."""
    arrays = np.load(DATA / f"{data}.npz")
    x, y, x_test, y_test = (torch.from_numpy(arrays[name]) for name in ("x", "y", "x_test", "y_test"))
    return normalise(x), y.long(), normalise(x_test), y_test.long()


def normalise(pixels: Tensor) -> Tensor:
    """Bytes to floats, shifted and scaled by the mean and deviation of MNIST."""
    return (pixels.float() / 255 - MEAN) / SPREAD


def rows(work: Work) -> np.ndarray:
    """Which training samples each peer owns, [peers, samples].

    MNIST is dealt out whole. Digits has too few for a thousand peers: each draws its own, without repetition.
    """
    total = len(load(work.data)[1])
    draw = np.random.RandomState(0)
    if work.peers * work.samples <= total:
        return draw.permutation(total)[: work.peers * work.samples].reshape(work.peers, work.samples)
    return np.stack([draw.choice(total, work.samples, replace=False) for _ in range(work.peers)])


@cache
def shards(work: Work) -> list[Batch]:
    """One (x, y) a peer."""
    x, y, _, _ = load(work.data)
    return [(x[own], y[own]) for own in torch.from_numpy(rows(work))]


@cache
def batches(work: Work) -> list[list[Batch]]:
    """One list of batches a peer, views of its shard."""
    return [list(zip(torch.split(x, work.batch), torch.split(y, work.batch), strict=True)) for x, y in shards(work)]


def neighbours(work: Work) -> list[list[int]]:
    """The random 4-regular graph of the gossip works."""
    import networkx

    graph = networkx.random_regular_graph(4, work.peers, seed=0)
    return [sorted(graph[peer]) for peer in range(work.peers)]


def epoch(network: nn.Module, own: list[Batch], lr: float) -> None:
    """One local epoch as anyone would write it."""
    optimiser = torch.optim.SGD(network.parameters(), lr=lr)
    for x, y in own:
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def accuracy(network: nn.Module, work: Work) -> float:
    """Share of the test set that ``network`` gets right."""
    _, _, x, y = load(work.data)
    network.eval()
    parts = zip(torch.split(x, 2000), torch.split(y, 2000), strict=True)
    right = torch.stack([(network(part).argmax(1) == label).sum() for part, label in parts]).sum()
    return int(right) / len(y)


def judged(peers: int) -> Iterator[int]:
    """The peers whose accuracy is averaged where every peer has its own model: at most 50, evenly spaced."""
    yield from range(0, peers, max(1, peers // JUDGED))
