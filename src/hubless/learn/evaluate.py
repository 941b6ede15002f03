"""How good the models are, without letting the question dominate the round."""

from __future__ import annotations

import torch
from torch import Tensor

from hubless.learn.context import Batch, State
from hubless.learn.kernels import Kernel, choose
from hubless.learn.model import Model
from hubless.learn.population import Cohort, Population
from hubless.learn.training import Workers
from hubless.learn.workload import Shards

LARGE = 5e10  # parameters x samples beyond which a last evaluation keeps to the few samples of the run
CROWD = 64  # beyond this many peers, each sees fewer test samples during the run, but at least LEAST
LEAST = 200
OUTPUTS = 1 << 26  # floats of all outputs that are held at a time: a vocabulary makes many
MANY = 128  # beyond this many peers, a fixed subset is evaluated during the run


class Evaluation:
    """Accuracy and loss of rows on the test set; a few samples during the run, all at the end."""

    def __init__(self, shards: Shards, workers: Workers, kernel: str = "auto") -> None:
        self.shards = shards
        self.workers = workers
        self.kind = kernel
        self.classes = shards.data.task == "classification"

    def room(self, model: Model, peers: int, *, whole: bool = False) -> int:
        """Test samples that there is time for when so many peers are evaluated; at the end (``whole``) all, if so."""
        every = len(self.shards.test_y)
        if whole and peers * every * model.size <= LARGE:
            return every
        return self.shards.few if peers <= CROWD else max(self.shards.few * CROWD // peers, LEAST)

    def score(self, model: Model, rows: Tensor, state: State, *, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Accuracy (or, without classes, nothing: zeros) and mean loss of each row ``[C, D]``."""
        few = self.room(model, len(rows), whole=whole)
        return self.measure(model, rows, state, self.shards.test_x[:few], self.shards.test_y[:few])

    def measure(self, model: Model, rows: Tensor, state: State, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same on samples ``x [M, ...]`` that should have the labels ``y [M, ...]``."""
        if not len(rows) or not len(y):
            return torch.zeros(len(rows)), torch.zeros(len(rows))
        kernel = self._kernel(model, rows)
        chunks = torch.split(torch.arange(len(rows)), self._size(model, len(rows)))

        size = self._piece(model, x, len(chunks[0]))
        pieces = list(zip(torch.split(x, size), torch.split(y, size), strict=True))

        def visit(number: int) -> tuple[Tensor, Tensor]:
            at = chunks[number]
            part = {name: value[at] for name, value in state.items()}
            right, lost = torch.zeros(len(at)), torch.zeros(len(at))
            for some, targets in pieces:
                out = kernel.forward(rows[at], part, some)
                share = len(targets) / len(y)
                lost += share * torch.stack([model.loss(one, targets).mean() for one in out]).cpu()
                if self.classes:
                    right += share * (out.argmax(-1) == targets).to(torch.float32).mean(1).cpu()
            return right, lost

        scores = list(self.workers.map(visit, len(chunks)))
        return torch.cat([a for a, _ in scores]), torch.cat([b for _, b in scores])

    def _piece(self, model: Model, x: Tensor, C: int) -> int:
        """Samples whose outputs for C peers there is room for at a time."""
        return max(1, OUTPUTS // (C * model.outputs(x)))

    def _kernel(self, model: Model, rows: Tensor) -> Kernel:
        example = Batch(self.shards.test_x[:1][None], self.shards.test_y[:1][None])
        return choose(model, 1, example, plain=False, kind=self.kind)

    def _size(self, model: Model, count: int) -> int:
        return max(1, min(8, -(-count // self.workers.count)))


def watched(population: Population, seed: int) -> Tensor:
    """Peers that are evaluated during the run: all, or a fixed subset of a large population."""
    if population.n <= MANY:
        return torch.arange(population.n)
    order = torch.randperm(population.n, generator=torch.Generator().manual_seed(seed))
    return order[:MANY].sort().values


def mean_row(cohort: Cohort, peers: Tensor) -> tuple[Tensor, State]:
    """The average model of some peers ``[1, D]``, with averaged statistics."""
    at = torch.searchsorted(cohort.ids, peers)
    rows = cohort.rows if cohort.shared else cohort.rows[at] if len(at) < len(cohort.rows) else cohort.rows
    state = {}
    for name in cohort.model.buffers:
        value = cohort.state[name]
        value = value if len(value) == 1 else value[at]
        state[name] = value.to(torch.float32).mean(0, keepdim=True).to(value.dtype)
    return rows.mean(0, keepdim=True), state


def distances(cohort: Cohort, peers: Tensor, mean: Tensor) -> Tensor:
    """``|x_i - mean|^2`` of each peer, without a copy of all rows."""
    at = torch.searchsorted(cohort.ids, peers)
    return torch.stack([(cohort.rows[i] - mean[0]).square().sum() for i in at.tolist()])
