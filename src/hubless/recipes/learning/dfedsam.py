"""DFedSAM and DFedSAM-MGS: sharpness-aware local steps, then one or several gossip steps (arXiv 2302.04083).

Peers disagree because their local minima are sharp and because they mix too little. Sharpness-aware steps (``SAM``)
find flat minima: the gradient is taken at ``y + rho g / |g|``, both gradients on the same batch and the norm over all
of a peer's parameters (algorithm 1). Several exchanges a round (``Gossip(steps=Q)``, the preset ``mgs``) shrink the
disagreement by ``lambda^Q`` in place of ``lambda`` and cost Q times the messages. W must be symmetric and doubly
stochastic, or the average of the models would move with every exchange.

The official code could not be found: ``rho = 0.01`` and ``Q = 4`` of the preset are those of third-party
implementations; rounds and the 10 % of peers that are active in each are recalled, and here everyone is active.
``rho = 0`` is DFedAvg, number for number. The metric ``sharpness`` is how much the held-out loss of the average model
climbs on a step of length 0.5 along its gradient, ``curvature`` the largest eigenvalue of the training loss's Hessian.

At the scale of the claims SAM alone raises no accuracy, so none is claimed; what it does is flatten.
"""

from collections.abc import Iterable

from hubless.claims import Claim, Lab, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import SAM, SGD, Gossip, Learning, Plain, Workload
from hubless.learn.sharpness import Sharpness
from hubless.net.mixing import mix
from hubless.options import (
    Any,
    Attack,
    Codec,
    Count,
    Data,
    Merge,
    Model,
    NonNegative,
    Partition,
    Positive,
    Topology,
    Weights,
    Whole,
)
from hubless.recipe import recipe


@recipe(system=52)
def dfedsam(
    peers: Count = 16,
    topology: Topology = "ring",
    weights: Weights = "metropolis",
    gossip_steps: Count = 1,
    data: Data = "fashion-mnist",
    samples: Whole = 3200,
    partition: Partition = "dirichlet:0.3",
    model: Model = "mlp:64",
    rounds: Count = 40,
    rho: NonNegative = 0.05,
    lr: Positive = 0.1,
    decay: Positive = 0.995,
    steps: Count = 5,
    epochs: Whole = 0,
    batch: Whole = 32,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    seed: Whole = 0,
) -> Learning:
    """Decentralised averaging of flat local models.

    Args:
        gossip_steps: exchanges a round (Q); each costs a message per link. More than one is DFedSAM-MGS
        rho: radius of the sharpness-aware step; 0 is DFedAvg
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
    """
    _keeps_the_mean(peers, topology, weights, seed)
    workload = Workload(data, partition, peers, model, samples)
    return Learning(
        workload=workload,
        local=SGD(lr=lr, decay=decay, steps=None if epochs else steps, epochs=epochs or None, batch=batch,
                  gradient=SAM(rho) if rho else Plain()),
        overlay=Gossip(topology, steps=gossip_steps, weights=weights),
        merge=merge,
        attack=attack,
        codec=codec,
        hooks=(Sharpness.of(workload, seed),),
        rounds=rounds,
    )  # fmt: skip


def _keeps_the_mean(peers: int, topology: Any, weights: Any, seed: int) -> None:
    topology.check(peers, "dfedsam.topology", seed)
    if weights.needs_sizes or not mix(topology.edges(peers, 0, seed), weights).doubly_stochastic:
        raise ConfigError(
            f"dfedsam.weights = {type(weights).__name__} on {topology}: the mixing matrix must be doubly stochastic, "
            "so that exchanges keep the mean; use weights metropolis on an undirected topology"
        )


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=3, model="mlp:16", steps=2, batch=10),
    "mgs": dict(gossip_steps=4),
    "paper": dict(peers=100, data="hf:uoft-cs/cifar10", samples=0, partition="dirichlet:0.3", model="cnn", rounds=1000,
                  rho=0.01, epochs=5, gossip_steps=4, decay=0.998),
}  # fmt: skip


def _arms(partition: str, *names: str) -> dict[str, dict[str, object]]:
    arms: dict[str, dict[str, object]] = {
        "avg": dict(rho=0.0), "sam": {}, "avg_mgs": dict(rho=0.0, gossip_steps=4), "mgs": dict(gossip_steps=4),
        "fedavg": dict(recipe="fedavg", data="fashion-mnist", samples=3200, decay=0.995),
    }  # fmt: skip
    return {name: arms[name] | dict(partition=partition) for name in names}


def _consistency(lab: Lab) -> Iterable[Row]:
    for alpha, gain in ((0.3, 2.5), (0.1, 7.0)):
        runs = lab.runs(**_arms(f"dirichlet:{alpha}", "sam", "mgs"))
        pairs = list(zip(runs["sam"], runs["mgs"], strict=True))
        yield at_most(
            f"consensus distance, DFedSAM-MGS / DFedSAM, alpha {alpha}",
            [m.final("consensus") / s.final("consensus") for s, m in pairs], 0.3, paper="lambda^Q in place of lambda",
        )  # fmt: skip
        yield at_least(
            f"mean accuracy of the peers, DFedSAM-MGS minus DFedSAM, alpha {alpha}",
            [100 * (m.final("accuracy") - s.final("accuracy")) for s, m in pairs], gain, unit="points",
        )  # fmt: skip
        yield reported(
            f"the same with as many bytes: DFedSAM-MGS after a quarter of the rounds minus DFedSAM, alpha {alpha}",
            [100 * (_after(m, 0.25) - _after(s, 1.0)) for s, m in pairs], unit="points",
        )  # fmt: skip


def _after(result: Any, share: float) -> float:
    series = result.series("accuracy")
    return float(series[round(share * len(series)) - 1])


def _closes(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**_arms("dirichlet:0.3", "avg", "sam", "avg_mgs", "mgs", "fedavg"))
    scores = {name: [result.final("accuracy") for result in results] for name, results in runs.items()}
    closed = [(m - a) / (f - a) for a, m, f in zip(scores["avg"], scores["mgs"], scores["fedavg"], strict=True)]
    yield at_least(
        "share of the accuracy gap from DFedAvg to FedAvg that DFedSAM-MGS closes, alpha 0.3", closed, 0.3,
        paper="close to centralised FL (tables 1 and 2)",
    )  # fmt: skip
    for name, said in (("avg", "DFedAvg"), ("sam", "DFedSAM"), ("avg_mgs", "DFedAvg with MGS"), ("fedavg", "FedAvg")):
        yield reported(f"accuracy of {said}, alpha 0.3", [100 * value for value in scores[name]], unit="%")


def _flat(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**_arms("dirichlet:0.3", "avg", "sam"))
    ratio = [s.final("sharpness") / a.final("sharpness") for a, s in zip(*runs.values(), strict=True)]
    yield at_most("sharpness of the average model, DFedSAM / DFedAvg, alpha 0.3", ratio, 0.85)
    ratio = [s.final("curvature") / a.final("curvature") for a, s in zip(*runs.values(), strict=True)]
    yield reported("largest curvature at the average model, DFedSAM / DFedAvg, alpha 0.3", ratio)


claims = [
    Claim(
        "Several gossip steps make the peers agree, and that raises their accuracy.", _consistency,
        paper="DFedSAM-MGS is above DFedSAM, more so on sparse topologies (tables 1 and 3)",
    ),
    Claim(
        "DFedSAM-MGS closes part of the gap between DFedAvg and centralised averaging.", _closes,
        paper="better than DFedAvg(M) and D-PSGD, close to centralised FL (abstract)",
    ),
    Claim("Sharpness-aware local steps make the average model flatter.", _flat, paper="flat loss landscape (figure 1)"),
]  # fmt: skip
