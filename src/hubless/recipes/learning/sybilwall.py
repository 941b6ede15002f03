"""SybilWall: clones of one attacker are seen from afar, because peers pass on whom they know (arXiv 2306.15044).

An attacker makes identities, each linked to ``phi`` honest peers, and sends the same poisoned model from all of them.
Honest peers weigh neighbours as FoolsGold does, by how unlike their histories are; with few attack edges an identity
none of them has two clones for neighbours, so each also passes on, to every neighbour, one record of its history, of
somebody near rather than far. Weights come from the similarities to neighbours AND to those one has only heard of; the
average is over the neighbours' models and one's own with weight 1. The released code normalises over the heard of,
too, and pairs the 1 with one of them when there are any; here as the paper means it.

More identities with fewer edges are the worse for the attacker: they are alike, and so they are found.

The attacker holds all samples of two classes, which it exchanges, and others; it trains harder than the honest peers,
on the average of what honest peers tell any of its identities. With ``attack=backdoor``, as in the released code, a
square in the corner of all its samples is bright and their label is 1. The preset ``paper`` has the released settings
(the MNIST model there is softmax regression, too); how many peers the paper had was not to be found in it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.data import partition as partitions
from hubless.errors import ConfigError
from hubless.learn import SGD, Alone, Gossip, Learning, Workload
from hubless.learn.attacks import Backdoor, LabelFlip, Sybil, Trigger
from hubless.learn.slots import Attack, Local
from hubless.net.infiltrated import Infiltrated
from hubless.options import Codec, Count, Data, Merge, Model, Partition, Positive, Topology, Whole
from hubless.recipe import recipe


@recipe(system=44)
def sybilwall(
    honest: Count = 16,
    topology: Topology = "random-regular:4",
    attack: Literal["label-flip", "backdoor"] = "label-flip",
    phi: Whole = 1,
    attack_edges: Whole = 0,
    merge: Merge = "sybilwall",
    alone: bool = False,
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.3",
    model: Model = "softmax:zero",
    rounds: Count = 25,
    lr: Positive = 0.05,
    steps: Count = 15,
    batch: Count = 32,
    attack_lr: Positive = 0.1,
    attack_steps: Count = 120,
    attack_samples: Whole = 600,
    codec: Codec = "raw",
) -> Learning:
    """Honest peers on a graph, and one attacker under several identities.

    Args:
        honest: honest peers; identities of the attacker come on top
        topology: who may talk to whom among the honest
        attack: exchange the labels 0 and 1, or plant a backdoor with the target 1
        phi: attack edges an identity; 0 means no attack
        attack_edges: attack edges of all identities together; 0 means one for every honest peer
        merge: sybilwall, or a baseline: mean, median, krum, foolsgold, ...
        alone: honest peers train and nobody sends
        attack_lr: learning rate of the attacker
        attack_steps: its local steps a round
        attack_samples: samples of other classes that it holds beside all of 0 and 1
    """
    edges = attack_edges or honest
    if phi and edges % phi:
        raise ConfigError(f"sybilwall.phi = {phi}: must divide the {edges} attack edges")
    identities = edges // phi if phi else 0
    peers = honest + identities
    hostile = tuple(range(honest, peers))
    inner: Attack = LabelFlip(hostile, pair=(0, 1))
    if attack == "backdoor":
        inner = Backdoor(hostile, Trigger(mask=corner(data.shape)), targets=(1,), ratio=1.0)
    overlay = Gossip(Infiltrated(topology, identities, phi) if phi else topology, weights="uniform")
    return Learning(
        workload=Workload(data, Infiltration(partition, identities, attack_samples), peers, model, samples),
        local=SGD(lr=lr, steps=steps, batch=batch),
        overlay=Alone() if alone else overlay,
        merge=merge,
        codec=codec,
        attack=Attacker(hostile, inner, SGD(lr=attack_lr, steps=attack_steps, batch=batch)) if phi else None,
        rounds=rounds,
    )


def corner(shape: tuple[int, ...], side: int = 3) -> Tensor:
    """A mask of the first pixels, of the shape of one input."""
    mask = torch.zeros(shape)
    mask[..., :side, :side] = 1
    return mask


@dataclass(frozen=True)
class Infiltration(partitions.Partition):
    """Honest peers share all samples; the attacker's first identity has copies, the others have none.

    honest:     how the honest peers' samples are split
    identities: of the attacker, the last peers
    others:     samples of other classes that it copies beside all of 0 and 1
    """

    honest: partitions.Partition
    identities: int
    others: int
    needs_labels = True

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """The honest peers' shares, then the attacker's."""
        held = list(self.honest.deal(y, peers - self.identities, rng))
        if not self.identities:
            return held
        both, rest = np.flatnonzero(y < 2), np.flatnonzero(y >= 2)
        copied = np.concatenate([both, rng.permutation(rest)[: self.others]])
        return [*held, copied, *[both[:0]] * (self.identities - 1)]


@dataclass(frozen=True)
class Attacker(Sybil):
    """One attacker under several identities, with a training of its own."""

    training: Local = field(default_factory=lambda: SGD(steps=1))

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "local", self.training)


presets = {
    "tiny": dict(honest=6, topology="ring", data="digits", samples=300, rounds=3, steps=2, batch=10, attack_steps=3,
                 attack_samples=10),
    "skewed": dict(partition="dirichlet:0.1"),
    "paper": dict(samples=0, partition="dirichlet:0.1", lr=0.004, attack_lr=0.004),
}  # fmt: skip

BASELINES = ("mean", "median", "krum", "foolsgold")
DENSITIES = (1, 4, 16)


def _percent(runs: list[Result], metric: str) -> list[float]:
    return [100 * run.final(metric) for run in runs]


def _attacked(lab: Lab) -> Iterable[Row]:
    merges = ("sybilwall", *BASELINES)
    arms = {f"{merge}, phi = {phi}": dict(merge=merge, phi=phi) for merge in merges for phi in DENSITIES}
    runs = lab.runs(**{name: {**arm, "evaluate": 25} for name, arm in arms.items()})
    success = {name: [run.final("attack_success") for run in results] for name, results in runs.items()}
    for phi in (1, 4):
        yield at_most(f"attack success against SybilWall, phi = {phi}", success[f"sybilwall, phi = {phi}"], 0.10,
                      paper="most consistent accuracy over attack scenarios (abstract)")  # fmt: skip
        for merge in ("mean", "foolsgold"):
            yield at_least(f"attack success against {merge}, phi = {phi}", success[f"{merge}, phi = {phi}"], 0.5)
    single, many = success["sybilwall, phi = 16"], success["sybilwall, phi = 1"]
    fewer = [one - other for one, other in zip(single, many, strict=True)]
    yield at_least("attack success of a single identity minus that of one for every honest peer", fewer, 0.10,
                   paper="creating many Sybils does not pay")  # fmt: skip
    for merge in ("median", "krum"):
        for phi in DENSITIES:
            yield reported(f"attack success against {merge}, phi = {phi}", success[f"{merge}, phi = {phi}"])
    for name, results in runs.items():
        yield reported(f"accuracy, {name}", _percent(results, "accuracy"), unit="%")


def _calm(lab: Lab) -> Iterable[Row]:
    arms: dict[str, dict[str, Any]] = {merge: dict(merge=merge) for merge in ("sybilwall", *BASELINES)}
    arms["local-only"] = dict(alone=True)
    runs = lab.runs(**{name: {**arm, "phi": 0, "evaluate": 25} for name, arm in arms.items()})
    accuracy = {name: _percent(results, "accuracy") for name, results in runs.items()}
    gain = [wall - lonely for wall, lonely in zip(accuracy["sybilwall"], accuracy["local-only"], strict=True)]
    yield at_least("accuracy without attack minus that of lonely peers", gain, 7, unit="points")
    for name, values in accuracy.items():
        yield reported(f"accuracy without attack, {name}", values, unit="%")


def _skewed(lab: Lab) -> Iterable[Row]:
    merges = ("sybilwall", "mean", "foolsgold")
    runs = lab.runs(**{merge: dict(merge=merge, partition="dirichlet:0.1", evaluate=25) for merge in merges})
    for name, results in runs.items():
        yield reported(f"Dirichlet 0.1: attack success, {name}", [run.final("attack_success") for run in results])
        yield reported(f"Dirichlet 0.1: accuracy, {name}", _percent(results, "accuracy"), unit="%")


claims = [
    Claim("Sybils are found whether they spread thin or not, and a single identity does better than many.", _attacked),
    Claim("It costs accuracy without an attack, but peers still gain much from each other.", _calm),
    Claim("Under stronger label skew.", _skewed),
]  # fmt: skip
