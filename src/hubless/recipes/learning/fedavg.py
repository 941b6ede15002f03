"""FedAvg: an aggregator sends the model out, participants train it, their results are averaged (arXiv 1602.05629).

A round: the aggregator role sends ``w`` to the sampled participants; each takes local steps from it; the role replaces
``w`` by their mean, weighted by the number of training samples (algorithm 1). The role is no machine: ``star`` pins it
to one peer, as in the paper; ``rotating`` hands it and its state to another peer after every round, at the price of the
bytes of the hand-over, and gives the same model.

``server`` and ``server_lr`` put an optimiser on the mean update (FedAvgM, FedAdam, FedYogi, FedAdagrad; arXiv
2003.00295, algorithm 2); any merge that reduces an inbox (median, trimmed mean, ...) may stand in for the mean.

The paper tunes the learning rate of every row of its tables; the preset's 0.1 is ours.
"""

from collections.abc import Iterable
from typing import Literal

from hubless.claims import Claim, Lab, Row, at_least, at_most
from hubless.errors import ConfigError
from hubless.learn import SGD, Learning, Reduce, ServerOpt, Workload, aggregation
from hubless.learn import Merge as MergePart
from hubless.learn.server import Rule
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Fraction,
    Merge,
    Model,
    Partition,
    Positive,
    Privacy,
    Whole,
)
from hubless.recipe import recipe


@recipe()
def fedavg(
    peers: Count = 16,
    participants: Whole = 0,
    aggregator: Literal["star", "rotating"] = "star",
    weigh: Literal["size", "one"] = "size",
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.3",
    model: Model = "mlp:64",
    rounds: Count = 40,
    lr: Positive = 0.1,
    decay: Positive = 1.0,
    steps: Count = 5,
    epochs: Whole = 0,
    batch: Whole = 32,
    momentum: Fraction = 0.0,
    server: Literal["sgd", "momentum", "adam", "yogi", "adagrad"] = "sgd",
    server_lr: Positive = 1.0,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Federated averaging, with the aggregator as a role among the peers.

    Args:
        weigh: how much a participant's work counts: by the size of its data, or one alike; privacy central and secure
            sums need one
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
        momentum: momentum of the local optimiser, from zero in every round
        server_lr: learning rate of the server optimiser; 1 with sgd is plain averaging
        merge: how the aggregator joins the participants' work: mean (by data size), median, trimmed-mean:0.2, ...
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  momentum=momentum),
        overlay=aggregation(aggregator, participants, weigh=weigh),
        merge=merge if server == "sgd" and server_lr == 1 else _served(merge, server, server_lr),
        attack=attack,
        codec=codec,
        privacy=privacy,
        rounds=rounds,
    )  # fmt: skip


def _served(merge: MergePart | Reduce, server: Rule, lr: float) -> MergePart:
    """The optimiser on whatever the merge makes of the updates."""
    if isinstance(merge, Reduce):
        return ServerOpt(merge, rule=server, lr=lr)
    if type(merge) is not MergePart:
        raise ConfigError(
            f"fedavg.server = {server!r} with server_lr = {lr:g}: merge {type(merge).__name__} has its own way of "
            "applying what it joined; use a merge that only reduces (mean, median, trimmed-mean, ...)"
        )
    return ServerOpt(merge.reduce, merge.share, rule=server, lr=lr)


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "paper": dict(
        peers=100, participants=10, samples=0, partition="shards:2", model="mcmahan-cnn", rounds=400, epochs=5, batch=10
    ),
}


def _together(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(fedavg={}, lonely=dict(recipe="local-only"))
    gain = [100 * (f.final("accuracy") - p.final("accuracy")) for f, p in zip(*runs.values(), strict=True)]
    yield at_least("accuracy of the common model minus the mean accuracy of lonely peers", gain, 20, unit="points")


def _no_hub(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(star={}, rotating=dict(aggregator="rotating"))
    gap = [
        max(abs(a - b) for a, b in zip(s.series("loss"), r.series("loss"), strict=True))
        for s, r in zip(*runs.values(), strict=True)
    ]
    yield at_most("largest difference in test loss, star against rotating aggregator, over all rounds", gap, 1e-5)


claims = [
    Claim("Averaging beats training alone under label skew.", _together),
    Claim("No hub: a role that moves every round gives the same model as one that stays.", _no_hub),
]
