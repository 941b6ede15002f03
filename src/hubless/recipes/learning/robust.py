"""Attack and defence in one population: any attack, merge, codec and privacy over any overlay and topology.

Not a published system but the bench for all of them: ``hubless grid robust`` draws attacks against defences. The column
``none`` of the first map is the accuracy that a defence costs or keeps when nobody attacks; ``attack_success`` is the
share of test samples on which honest peers do what the attacker wanted, for attacks that want something.

With ``overlay`` star or rotating, participants send updates, which the aggregator reduces by the merge's rule; with
gossip every peer reduces the models of its neighbours and its own. Honest peers alone count in every metric.
"""

from collections.abc import Iterable
from typing import Literal

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.learn import SGD, Gossip, Learning, Overlay, ServerOpt, Workload, aggregation
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


@recipe()
def robust(
    peers: Count = 20,
    overlay: Literal["gossip", "star", "rotating"] = "gossip",
    topology: Topology = "full",
    weights: Weights = "metropolis",
    participants: Whole = 0,
    attack: Attack = "none",
    merge: Merge = "mean",
    codec: Codec = "raw",
    privacy: Privacy = "none",
    data: Data = "digits",
    samples: Whole = 0,
    held: Whole = 0,
    partition: Partition = "dirichlet:1",
    model: Model = "mlp:32",
    rounds: Count = 30,
    lr: Positive = 0.1,
    steps: Count = 10,
    batch: Count = 16,
) -> Learning:
    """A population that some peers attack and a merge defends.

    Args:
        overlay: gossip of models, or updates to an aggregator, pinned (star) or handed on (rotating)
        topology: who may talk to whom in gossip
        participants: peers that train in a round of a star; 0 means all
        held: samples of each of its classes that a peer holds out, for merges that try models on them (bristle)
    """
    gossip = overlay == "gossip"
    way: Overlay = Gossip(topology, weights=weights) if gossip else aggregation(overlay, participants, weigh="one")
    return Learning(
        workload=Workload(data, partition, peers, model, samples, held=held),
        local=SGD(lr=lr, steps=steps, batch=batch),
        overlay=way,
        merge=merge if gossip or not merge.plain else ServerOpt(merge.reduce),
        attack=attack,
        codec=codec,
        privacy=privacy,
        rounds=rounds,
    )


presets = {
    "tiny": dict(peers=6, samples=200, rounds=3, steps=2, batch=10, model="mlp:8"),
}

ATTACKS = ("label-flip:20%", "sign-flip:20%:scale=4", "noise:20%", "alie:20%:z=1.5", "ipm:20%:eps=2", "backdoor:20%")
DEFENCES = (
    "median",
    "trimmed-mean:0.25",
    "krum",
    "multi-krum",
    "geometric-median",
    "centred-clip",
    "foolsgold",
    "flame",
)
sweep = dict(
    axes=dict(attack=["none", *ATTACKS], merge=["mean", *DEFENCES]),
    metrics=["accuracy", "attack_success"],
)
STEADY = ("median", "trimmed-mean:0.25", "multi-krum", "geometric-median", "centred-clip", "flame")


def _percent(runs: list[Result]) -> list[float]:
    return [100 * run.final("accuracy") for run in runs]


def _beyond(runs: dict[str, list[Result]], one: str, other: str) -> list[float]:
    return [a - b for a, b in zip(_percent(runs[one]), _percent(runs[other]), strict=True)]


def _flips(lab: Lab) -> Iterable[Row]:
    arms = {f"{merge}, {attack}": dict(merge=merge, attack=attack, evaluate=30)
            for merge in ("mean", *DEFENCES) for attack in ("none", ATTACKS[1])}  # fmt: skip
    runs = lab.runs(**arms)
    for merge in STEADY:
        gain = _beyond(runs, f"{merge}, {ATTACKS[1]}", f"mean, {ATTACKS[1]}")
        yield at_least(f"accuracy under sign flips, {merge} minus mean", gain, 40, unit="points")
        cost = _beyond(runs, "mean, none", f"{merge}, none")
        yield at_most(f"accuracy that {merge} costs when nobody attacks", cost, 5, unit="points")
    for merge in DEFENCES:
        if merge not in STEADY:
            for attack in ("none", ATTACKS[1]):
                yield reported(f"accuracy of {merge}, {attack}", _percent(runs[f"{merge}, {attack}"]), unit="%")


claims = [
    Claim("A fifth of the peers turning their updates round ruins the mean, and few robust merges by much.", _flips),
]  # fmt: skip
