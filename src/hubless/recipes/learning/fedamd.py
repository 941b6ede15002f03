"""FedAMD: anchors aim with large-batch gradients, miners walk with variance-reduced steps (arXiv 2206.05891).

With few participants a round, FedAvg follows whoever happens to be there. FedAMD keeps a large-batch gradient of EVERY
peer, its bullseye, however stale. Of a round's participants some, the anchors, refresh theirs; the others, the miners,
take K steps along ``g <- g + grad(x_k; B) - grad(x_{k-1}; B)``, which begins at the mean bullseye of all peers.
``Bullseye`` is an anchor's work, ``RecursiveVR`` a miner's, ``AnchorMiner`` joins both, and ``Coin`` or ``Turns``
shares out the roles (the paper's constant and sequential probability schedules). Here the bullseyes stay with their
owners and only their mean travels, so there is no cache of all peers to lose; the role may even move every round.

Values of the preset ``paper`` are the defaults of the official code (HarliWu/FedAMD). As there, every peer gives a
bullseye at the initial model first, and miners are averaged alike. A miner pays two gradients a step, an anchor
one large one.

A stale mean is replayed K times, so ``lr * steps * staleness`` must stay small: on raw pixels at lr 0.1 training
diverges or stalls where FedAvg does not. ``centre`` subtracts the mean image and scales to a common length. ``method``
runs the baselines on the same data with the same measures of the objective. In turns with period 2 half of the rounds
move nothing, which puts the sequential form behind at equal rounds; that figure is reported, not claimed.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.data.dataset import Dataset
from hubless.errors import ConfigError
from hubless.learn import (
    SGD,
    ControlVariate,
    Gradient,
    Learning,
    Merge,
    Plain,
    RecursiveVR,
    Scaffold,
    ServerOpt,
    Workload,
    aggregation,
)
from hubless.learn.anchors import AnchorMiner, Bullseye, Coin, FullGradient, Primed, Turns
from hubless.learn.overlays import Everyone, Roles
from hubless.options import Count, Data, Model, NonNegative, Partition, Positive, Probability, Whole
from hubless.recipe import recipe
from hubless.run.record import Record


@recipe(system=51)
def fedamd(
    peers: Count = 20,
    participants: Whole = 10,
    aggregator: Literal["star", "rotating"] = "star",
    method: Literal["fedamd", "fedavg", "scaffold"] = "fedamd",
    p: Probability = 0.5,
    period: Whole = 0,
    data: Data = "mnist",
    samples: Whole = 4000,
    centre: NonNegative = 3.0,
    partition: Partition = "shards:2",
    model: Model = "softmax",
    rounds: Count = 100,
    lr: Positive = 0.3,
    steps: Count = 10,
    batch: Count = 32,
    anchor_batch: Whole = 0,
    server_lr: Positive = 1.0,
    seed: Whole = 0,
) -> Learning:
    """Anchor sampling under partial participation, or a baseline on the same data.

    Args:
        method: fedamd, or a baseline with the same data and measures: fedavg, scaffold
        p: probability that a participant is an anchor, drawn anew in every round
        period: in place of p, one round of anchors only, then period - 1 rounds of miners only; 0 draws by p
        centre: subtract the mean image and scale inputs so that their root mean squared norm is this; 0 leaves them
        steps: local steps of a miner (K)
        anchor_batch: samples of an anchor's gradient; 0 takes all of a peer's data
        server_lr: step of the aggregator along the mean update
    """
    if period == 1:
        raise ConfigError("fedamd.period = 1: rounds would be of anchors only and nothing would move; use 2 or more")
    anchored = method == "fedamd"
    gradients: dict[str, Gradient] = {"fedamd": RecursiveVR(), "scaffold": ControlVariate(), "fedavg": Plain()}
    merges: dict[str, Merge] = {
        "fedamd": AnchorMiner(lr=server_lr), "scaffold": Scaffold(lr=server_lr), "fedavg": ServerOpt(lr=server_lr),
    }  # fmt: skip
    roles: Roles = (Turns(period) if period else Coin(p)) if anchored else Everyone()
    star = aggregation(aggregator, participants, weigh="one", roles_of=roles)
    walk = SGD(lr=lr, steps=steps, batch=batch, gradient=gradients[method])
    return Learning(
        workload=Workload(_centred(data.subset(samples, seed), centre), partition, peers, model, test=2000),
        local={"anchor": Bullseye(anchor_batch), "miner": walk} if anchored else walk,
        overlay=Primed(star) if anchored else star,
        merge=merges[method],
        hooks=(FullGradient(),),
        figures=tuple(_warnings(p, period, batch, anchor_batch)) if anchored else (),
        rounds=rounds,
    )


def _centred(data: Dataset, length: float) -> Dataset:
    """Inputs minus the mean training input, scaled to a root mean squared norm of ``length``."""
    if not length:
        return data
    mean = data.x.mean(axis=0)
    norm = np.sqrt(np.square(data.x - mean).sum() / len(data.x))
    if not norm > 0:
        raise ConfigError(f"fedamd.centre = {length:g}: all inputs of {data.name} are the same; use centre=0")
    x, test_x = ((part - mean) * np.float32(length / norm) for part in (data.x, data.test_x))
    return replace(data, x=x, test_x=test_x)


def _warnings(p: float, period: int, batch: int, anchor_batch: int) -> Iterator[Record]:
    if 0 < anchor_batch < batch:
        text = f"anchor_batch = {anchor_batch} is smaller than the miners' batch = {batch}: noisier aim than steps"
        yield Record("event", 0, data={"text": text, "level": "warning"})
    if not period and p in (0, 1):
        text = f"p = {p:g}: " + ("nobody moves the model" if p else "bullseyes stay those of the initial model")
        yield Record("event", 0, data={"text": text, "level": "warning"})


presets = {
    "tiny": dict(peers=6, participants=4, data="digits", samples=300, rounds=3, steps=2, batch=10),
    "paper": dict(data="fashion-mnist", samples=0, partition="classes:2", model="lenet", rounds=200, lr=0.01, batch=64,
                  p=0.2, centre=0.0),
}  # fmt: skip

LAST = 10
RATES = (0.03, 0.1, 0.3)
ARMS: dict[str, dict[str, Any]] = {
    "fedamd": {},
    "fedavg": dict(method="fedavg"),
    "scaffold": dict(method="scaffold"),
    "fedamd in turns": dict(period=2),
}


def _last(run: Result, metric: str) -> list[float]:
    return run.series(metric)[-LAST:]


def _accuracy(results: list[Result]) -> float:
    return statistics.fmean(value for run in results for value in _last(run, "accuracy"))


def _square(norms: list[float]) -> float:
    return statistics.fmean(norm * norm for norm in norms)


def _compare(lab: Lab, where: str, arms: Iterable[str], **given: Any) -> Iterable[Row]:
    """Every arm at the learning rate at which its own accuracy over the last rounds is highest, FedAMD over FedAvg."""
    grid = {f"{arm}-{lr:g}": {**ARMS[arm], **given, "lr": lr} for arm in arms for lr in RATES}
    runs = lab.runs(**grid)
    best = {arm: max((runs[f"{arm}-{lr:g}"] for lr in RATES), key=_accuracy) for arm in arms}
    pairs = list(zip(best["fedamd"], best["fedavg"], strict=True))

    def over(metric: str, of: Callable[[list[float]], float]) -> list[float]:
        return [of(_last(ours, metric)) / of(_last(base, metric)) for ours, base in pairs]

    norm, objective = over("grad_norm", _square), over("objective", statistics.fmean)
    yield at_most(f"{where}: squared norm of the full gradient over FedAvg's, last {LAST} rounds", norm, 0.6)
    yield at_most(f"{where}: training objective over FedAvg's, last {LAST} rounds", objective, 1)
    unsteady = over("accuracy", statistics.stdev)
    yield at_most(f"{where}: deviation of test accuracy over the last {LAST} rounds over FedAvg's", unsteady, 0.6)
    gain = [100 * (ours.final("accuracy") - base.final("accuracy")) for ours, base in pairs]
    yield at_least(f"{where}: test accuracy minus FedAvg's", gain, 0, unit="points")
    for arm, results in best.items():
        values = [100 * run.final("accuracy") for run in results]
        yield reported(f"{where}: accuracy of {arm} at its best lr {results[0].options['lr']:g}", values, unit="%")


def _two_classes(lab: Lab) -> Iterable[Row]:
    yield from _compare(lab, "two shards a peer, 10 of 20", ARMS)


def _one_class(lab: Lab) -> Iterable[Row]:
    yield from _compare(lab, "one shard a peer, 5 of 20", ("fedamd", "fedavg"), partition="shards:1", participants=5)


claims = [
    Claim("Under partial participation FedAMD ends nearer to a stationary point than FedAvg, and steadier.",
          _two_classes, paper="fewer rounds to an eps-approximation; higher accuracy on Fashion-MNIST and EMNIST"),
    Claim("The same holds where data are more skewed and participants fewer.", _one_class),
]  # fmt: skip
