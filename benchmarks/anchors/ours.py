"""hubless: FedAvg with a star, all peers in every round, on all cores; one model for the whole population.

The samples are laid out peer after peer, so that a partition into equal blocks gives every peer exactly the
common ones. Each peer shuffles its own, as any run does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anchors import work as common
from anchors.meter import Meter, arguments
from hubless.data.dataset import Dataset
from hubless.data.partition import Partition
from hubless.learn.learning import Learning
from hubless.learn.local import SGD
from hubless.learn.model import Model
from hubless.learn.overlays import Star
from hubless.learn.plan import Overlay
from hubless.learn.workload import Workload
from hubless.run.setting import Setting


class Blocks(Partition):
    """The first peer has the first samples, and so on."""

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        return np.array_split(np.arange(len(y)), peers)


def dataset(work: common.Work) -> Dataset:
    """The common samples in the order of their owners."""
    x, y, x_test, y_test = (tensor.numpy() for tensor in common.load(work.data))
    own = common.rows(work).reshape(-1)
    return Dataset.of(x[own], y[own], test=(x_test, y_test), name=work.name)


def run(name: str, overlay: Overlay) -> None:
    """Measure one overlay; nothing is evaluated in a round, and the models are read at the end."""
    work, rounds = arguments()
    data = dataset(work)
    meter = Meter(name, work, rounds)
    model = Model(lambda: common.model(work))
    experiment = Learning(
        workload=Workload(data, Blocks(), work.peers, model),
        local=SGD(lr=work.lr, epochs=1, batch=work.batch),
        overlay=overlay,
        rounds=meter.total + 1,
    ).under(Setting(evaluate=meter.total + 1))
    for record in experiment.records():
        if record.kind in ("start", "round"):
            meter.tick()
        if record.round == meter.total:
            break
    rows = experiment.snapshot().tensors["cohort.0/rows"]
    network = common.model(work)
    scores = []
    for peer in common.judged(len(rows)):
        network.load_state_dict(model.unflatten(rows[peer]))
        scores.append(common.accuracy(network, work))
    meter.report(statistics.fmean(scores))


if __name__ == "__main__":
    run("hubless", Star())
