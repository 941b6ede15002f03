"""D-PSGD: every peer takes local steps, then averages with its neighbours (Lian et al. 2017, arXiv 1705.09056).

Algorithm 1 of the source: ``x_i <- sum_j w_ij x_j - lr g_i``, with a symmetric doubly stochastic W. Here a round trains
first and averages then, which is the same sequence up to where a round begins, with the gradient taken at the averaged
model. Models agree the better, the larger the gap between the first and the second eigenvalue of W.

With ``steps > 1`` it is local SGD with gossip; momentum lasts from round to round and is not sent. The source trains
ResNet-20 on CIFAR-10 with 8 workers on a ring; the preset has a smaller network.
"""

from collections.abc import Iterable

from hubless.claims import Claim, Lab, Result, Row, at_least, reported
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
    decay: Positive = 1.0,
    steps: Count = 5,
    batch: Whole = 32,
    momentum: Fraction = 0.0,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Decentralised parallel SGD, with several local steps if asked.

    Args:
        steps: local steps a round; 1 is the source's algorithm
        batch: samples in a local mini-batch; 0 takes all of a peer's data
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, decay=decay, steps=steps, batch=batch, momentum=momentum, keep=True),
        overlay=Gossip(topology, weights=weights),
        merge=merge,
        attack=attack,
        codec=codec,
        privacy=privacy,
        rounds=rounds,
    )


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "paper": dict(
        peers=8, data="hf:uoft-cs/cifar10", samples=0, partition="iid", model="cnn", rounds=20000, steps=1, batch=32
    ),
}


def _together(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(gossip={}, lonely=dict(recipe="local-only"))
    gain = [100 * (g.final("accuracy") - p.final("accuracy")) for g, p in zip(*runs.values(), strict=True)]
    yield at_least("mean accuracy of the peers minus that of lonely peers", gain, 10, unit="points")


def _gap(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(ring={}, exponential=dict(topology="exponential"))
    for name, results in runs.items():
        yield reported(f"spectral gap, {name}", [_spectral_gap(result) for result in results])
    ratio = [r.final("consensus") / e.final("consensus") for r, e in zip(*runs.values(), strict=True)]
    yield at_least(
        "consensus distance on the ring / on the exponential graph", ratio, 4,
        paper="the constant of the disagreement grows as the gap closes (theorem 1)",
    )  # fmt: skip


def _spectral_gap(result: Result) -> float:
    return float(result.records[0].data["spectral_gap"])


claims = [
    Claim("Averaging with neighbours beats training alone under label skew.", _together),
    Claim("The consensus distance falls as the spectral gap grows.", _gap),
]
