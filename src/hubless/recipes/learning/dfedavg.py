"""DFedAvg(M): several local steps with momentum, then gossip with the neighbours (arXiv 2104.11375).

Algorithm 1 of the source: from ``y_0 = x_i``, K heavy-ball steps ``y_{k+1} = y_k - lr g + momentum (y_k - y_{k-1})``
that begin at rest in every round, then ``x_i <- sum_l w_il z_l`` over the neighbours. With a constant learning rate
within a round this is ``SGD(momentum)`` whose buffer starts at zero. ``momentum = 0`` is DFedAvg. ``gossip_steps``
exchanges more than once a round; the source does so once.

The source's quantised variant is a matter of the codec. Its table of hyperparameters could not be read here; the preset
takes 100 peers on a ring, the 2NN and momentum 0.9, as others reproduce it.
"""

from collections.abc import Iterable

from hubless.claims import Claim, Lab, Row, at_least
from hubless.learn import SGD, Gossip, Learning, Workload
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
    Topology,
    Weights,
    Whole,
)
from hubless.recipe import recipe


@recipe()
def dfedavg(
    peers: Count = 16,
    topology: Topology = "ring",
    weights: Weights = "metropolis",
    gossip_steps: Count = 1,
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
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Decentralised federated averaging, with momentum if asked.

    Args:
        gossip_steps: exchanges a round; each costs a message per link
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
        momentum: momentum of the local optimiser, from zero in every round
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  momentum=momentum),
        overlay=Gossip(topology, steps=gossip_steps, weights=weights),
        merge=merge,
        attack=attack,
        codec=codec,
        privacy=privacy,
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "momentum": dict(momentum=0.9, lr=0.02),
    "paper": dict(peers=100, samples=0, partition="shards:2", model="2nn", rounds=100, lr=0.01, epochs=5, batch=50,
                  momentum=0.9),
}  # fmt: skip


def _momentum(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(plain=dict(lr=0.02), heavy=dict(lr=0.02, momentum=0.9), lonely=dict(recipe="local-only"))
    rows = list(zip(*runs.values(), strict=True))
    gain = [100 * (heavy.final("accuracy") - lonely.final("accuracy")) for _, heavy, lonely in rows]
    yield at_least("accuracy of DFedAvgM minus lonely peers", gain, 10, unit="points")
    faster = [100 * (heavy.final("accuracy") - plain.final("accuracy")) for plain, heavy, _ in rows]
    yield at_least("accuracy of DFedAvgM minus DFedAvg at the same learning rate", faster, 3, unit="points")


claims = [Claim("Gossip beats training alone, and momentum speeds it up at an equal step.", _momentum)]
