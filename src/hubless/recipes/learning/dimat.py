"""DIMAT: neighbours' hidden units are permuted into the places of one's own before averaging (arXiv 2404.08079).

Networks that started apart compute alike with units in different places, and their plain average computes little. A
peer runs its own and each neighbour's network on its own samples, correlates units layer by layer, permutes the
neighbour's so that like lies by like (a linear assignment a layer; the function stays), takes the weighted average, and
trains on: ``x_i <- w_ii x_i + sum_j w_ij Perm(x_j)``. BatchNorm's statistics are then taken anew on its own data.
Which axes move together is derived from the module, or given (``merge=matched:spec=FILE.json``).

The first round trains alone for ``pretrain`` steps; then a round merges and a round trains, in turn, ``rounds`` times
both. A round of its own makes the accuracy directly after a merge an ordinary evaluation: nobody trains in it.

The official code correlates on the whole training set; a real peer has its own data, here at most 256 samples. On a
full graph the official code aligns everyone to agent 0 and hands its average to all, which needs a hub; here each peer
aligns to itself. Its weight matching aligns each neighbour to the running average, here to the peer's own model.
Setting: the card's, as ResNets on CIFAR (preset ``paper``: Adam, batches of 100, 100 epochs alone, then 100 times 2
epochs) take a GPU. With a label skew one's own data moves few units, and matching is worth less: reported.
"""

from collections.abc import Iterable
from typing import Any, Literal

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.learn import SGD, Adam, Learning, Local, Workload
from hubless.learn import Model as Network
from hubless.learn.matching.alternating import PRETRAIN, Alternating, Jumps
from hubless.learn.matching.barrier import Barrier
from hubless.learn.matching.merge import Matched
from hubless.learn.matching.symmetries import derive
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Merge,
    Model,
    Partition,
    Positive,
    Privacy,
    Topology,
    Weights,
    Whole,
)
from hubless.recipe import recipe


@recipe(system=14)
def dimat(
    peers: Count = 5,
    topology: Topology = "ring",
    weights: Weights = "uniform",
    merge: Merge = "matched",
    alone: bool = False,
    start: Literal["different", "same"] = "different",
    data: Data = "mnist",
    samples: Whole = 5000,
    partition: Partition = "iid",
    model: Model = "mlp:64:64",
    pretrain: Whole = 300,
    rounds: Count = 10,
    optimiser: Literal["sgd", "adam"] = "sgd",
    lr: Positive = 0.1,
    steps: Count = 40,
    batch: Whole = 32,
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Pre-train alone, then merge with the neighbours and train, in turn.

    Args:
        weights: mixing weights: uniform (1/3 on a ring, 1/n on a full graph), metropolis, data-size, matrix:FILE.json
        merge: matched (by activation), matched:weight, mean (plain average), matched:none (with fresh statistics), ...
        alone: nobody merges
        start: whether networks start from different parameters or the same
        pretrain: local steps before the first merge, in a round of their own
        rounds: merges, each followed by a round of training
        optimiser: sgd, or adam, whose moments start anew in every round of training, as in the official code
        steps: local steps in a round of training
        batch: samples in a local mini-batch; 0 takes all of a peer's data
    """
    overlay = Alternating(topology, weights=weights, lead=pretrain > 0, silent=alone)
    name = getattr(model, "__qualname__", "model").split(".")[0]
    network = Network(lambda: model(data.shape, data.outputs), task=data.task, same=start == "same", name=name)
    permutations = merge.permutations if isinstance(merge, Matched) else derive
    watching = (Barrier(int(overlay.lead), spec=permutations),) if peers > 1 else ()

    def local(count: int) -> Local:
        return SGD(lr=lr, steps=count, batch=batch) if optimiser == "sgd" else Adam(lr=lr, steps=count, batch=batch)

    return Learning(
        workload=Workload(data, partition, peers, network, samples),
        local={"train": local(steps), PRETRAIN: local(max(pretrain, 1))},
        overlay=overlay,
        merge=merge,
        attack=attack,
        codec=codec,
        privacy=privacy,
        hooks=(Jumps(overlay), *watching),
        rounds=overlay.lead + 2 * rounds,
    )


presets = {
    "tiny": dict(peers=3, data="digits", samples=300, model="mlp:16:8", pretrain=30, rounds=2, steps=3, batch=10),
    "paper": dict(data="hf:uoft-cs/cifar100", samples=0, model="resnet:20", topology="full", optimiser="adam", lr=0.001,
                  batch=100, pretrain=10_000, rounds=100, steps=200),
}  # fmt: skip

OTHERS: dict[str, dict[str, Any]] = {
    "Fashion-MNIST": dict(data="fashion-mnist"),
    "Dirichlet 0.5": dict(partition="dirichlet:0.5"),
    "two shards a peer": dict(partition="shards:2"),
    "residual networks on digits": dict(model="resnet:8:16", data="digits", samples=1200, peers=3, pretrain=100,
                                        rounds=1, lr=0.05),
}  # fmt: skip
PAIR = ("DIMAT", "plain average")
MERGES = {"DIMAT": "matched", "weight matching": "matched:weight", "plain average": "mean"}


def _first(run: Result, when: str) -> float:
    """Mean accuracy of the peers around the first merge, in percent."""
    return 100 * run.series(f"accuracy_{when}")[0]


def _after(runs: list[Result]) -> list[float]:
    return [_first(run, "after") for run in runs]


def _gap(runs: dict[str, list[Result]]) -> list[float]:
    return [a - b for a, b in zip(_after(runs["DIMAT"]), _after(runs["plain average"]), strict=True)]


def _arms(*names: str, **options: Any) -> dict[str, dict[str, Any]]:
    return {name: dict(merge=merge, **options) for name, merge in MERGES.items() if name in (names or MERGES)}


def _aligned(lab: Lab) -> Iterable[Row]:
    for topology, bound in (("ring", 20), ("full", 30)):
        runs = lab.runs(**_arms(topology=topology))
        yield at_least(f"{topology}: accuracy directly after the first merge, DIMAT minus plain average", _gap(runs),
                       bound, unit="points")  # fmt: skip
        loss = [_first(run, "before") - _first(run, "after") for run in runs["DIMAT"]]
        yield at_most(f"{topology}: accuracy that DIMAT's first merge costs", loss, 8, unit="points")
        for name, results in runs.items():
            yield reported(f"{topology}: accuracy directly after the first merge, {name}", _after(results), unit="%")
    heights = [f"barrier{way}" for way in ("", "_activation", "_weight")]
    for name, metric in zip(("as they are", "aligned by activations", "aligned by weights"), heights, strict=True):
        found = [run.series(metric)[0] for run in runs["DIMAT"]]
        yield reported(f"barrier in test loss between two peers, {name}", found)


def _control(lab: Lab) -> Iterable[Row]:
    for topology in ("ring", "full"):
        runs = lab.runs(**_arms(*PAIR, start="same", topology=topology))
        yield at_most(f"{topology}: the same with one initialisation, either way", map(abs, _gap(runs)), 3,
                      unit="points")  # fmt: skip


def _later(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**_arms(topology="ring"), alone=dict(alone=True))
    for name, results in runs.items():
        last = [100 * run.series("accuracy_after")[-1] for run in results]
        yield reported(f"ring: accuracy directly after the last merge, {name}", last, unit="%")
    for where, options in OTHERS.items():
        runs = lab.runs(**_arms(*PAIR, **options))
        for name in PAIR:
            yield reported(
                f"ring, {where}: accuracy directly after the first merge, {name}", _after(runs[name]), unit="%"
            )


claims = [
    Claim("Aligned models survive their first merge, where plain averages of different networks do not.", _aligned,
          paper="faster and higher initial gain in accuracy (abstract)"),
    Claim("Networks that start alike need no alignment.", _control),
    Claim("Later the difference goes; with label skew it was small.", _later),
]  # fmt: skip
