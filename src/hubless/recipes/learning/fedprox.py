"""FedProx: FedAvg whose local objective is tied to the model of the round (arXiv 1812.06127).

Each participant minimises ``F_i(w) + mu/2 |w - w_t|^2`` inexactly (equation 2): its gradient has the extra term
``mu (w - w_t)``, so that many local steps on skewed data do not run away. ``mu = 0`` is FedAvg, number for number.

The source also lets stragglers hand in what they have; here every participant does its ``steps`` or ``epochs``.
Its MNIST setting (1000 devices, power-law sizes, two classes each) has no such partition here: ``shards:2`` stands in.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal

from hubless.claims import Claim, Lab, Row, at_most
from hubless.learn import SGD, Learning, Proximal, Workload, aggregation
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Merge,
    Model,
    NonNegative,
    Partition,
    Positive,
    Privacy,
    Whole,
)
from hubless.recipe import recipe


@recipe()
def fedprox(
    peers: Count = 16,
    participants: Whole = 0,
    aggregator: Literal["star", "rotating"] = "star",
    weigh: Literal["size", "one"] = "size",
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.3",
    model: Model = "mlp:64",
    rounds: Count = 40,
    mu: NonNegative = 1.0,
    lr: Positive = 0.1,
    decay: Positive = 1.0,
    steps: Count = 5,
    epochs: Whole = 0,
    batch: Whole = 32,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Federated averaging with a proximal term.

    Args:
        mu: strength of the proximal term; the source tries 0.001, 0.01, 0.1 and 1
        weigh: how much a participant's work counts: by the size of its data, or one alike; privacy central and secure
            sums need one
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  gradient=Proximal(mu)),
        overlay=aggregation(aggregator, participants, weigh=weigh),
        merge=merge,
        attack=attack,
        codec=codec,
        privacy=privacy,
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "paper": dict(
        peers=1000, participants=10, samples=0, partition="shards:2", model="softmax", rounds=200, mu=1.0, lr=0.03,
        epochs=20, batch=10,
    ),
}  # fmt: skip


def _steady(lab: Lab) -> Iterable[Row]:
    hard = dict(partition="shards:1", participants=4, epochs=5)
    runs = lab.runs(fedavg=dict(recipe="fedavg", **hard), fedprox=dict(hard))
    ratio = [_swing(p.series("loss")) / _swing(a.series("loss")) for a, p in zip(*runs.values(), strict=True)]
    yield at_most(
        "mean change of test loss from round to round over the last half, FedProx / FedAvg", ratio, 0.8,
        paper="more stable convergence than FedAvg in heterogeneous networks (figure 1)",
    )  # fmt: skip


def _swing(series: list[float]) -> float:
    late = series[len(series) // 2 :]
    return sum(abs(b - a) for a, b in pairwise(late)) / (len(late) - 1)


claims = [
    Claim("The proximal term steadies convergence when few participants with one class or so take many steps.", _steady)
]
