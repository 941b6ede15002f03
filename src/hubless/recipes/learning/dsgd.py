"""D-PSGD: every peer takes local steps, then averages with its neighbours (Lian et al. 2017, arXiv 1705.09056)."""

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
    Topology,
    Weights,
    Whole,
)
from hubless.recipe import recipe


@recipe()
def dsgd(
    peers: Count = 16,
    topology: Topology = "ring",
    weights: Weights = "metropolis",
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.3",
    model: Model = "mlp:64",
    rounds: Count = 40,
    lr: Positive = 0.1,
    steps: Count = 5,
    batch: Count = 32,
    momentum: Fraction = 0.0,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Decentralised parallel SGD, with several local steps if asked.

    With ``steps=1`` this is algorithm 1 of the source up to the order of the two halves of a round.
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, steps=steps, batch=batch, momentum=momentum, keep=True),
        overlay=Gossip(topology, weights=weights),
        merge=merge,
        attack=attack,
        codec=codec,
        rounds=rounds,
    )


presets = {"tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10)}
claims: list = []
