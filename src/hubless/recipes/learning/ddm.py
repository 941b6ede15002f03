"""DDM: diffusion experts on clusters of the data, trained without a word between them (arXiv 2501.05450).

The velocity field of a flow between data and noise is, for a mixture, the mixture of the fields of its parts, weighed
by the posterior of the part: ``u_t(x) = sum_k p(k | x_t = x) u_t^k(x)``. So K experts are trained by flow matching on
one cluster each, in full isolation, and a router, a classifier of noisy samples, joins them when samples are drawn.
Together they take as many samples a step as one model with K times the batch: K experts for the work of one.

Here a round is ``steps`` mini-batches and nothing is sent before the last; then all experts go to one peer, once and
for all, and only that is communication. Samples are drawn there. The router is trained there, too, on clean samples of
all clusters: in the paper by whoever clusters the data and deals it out, and so has it already. What the router takes
is reported beside the run's bytes: its own bytes, the samples, its work over that of the experts. A peer that does not
answer in the end is missed like its cluster: the router is trained for those who came.

Decided here: pictures are their first principal components, fitted on all training pictures; clusters are of these, not
of a large network's features; coarse clusters weigh fine ones by their samples. The paper's networks are told a class
or a text, ours nothing, so its oracle, which knows the cluster, is here an expert that is drawn once, by the sizes of
the clusters, and kept. The paper's order of strategies does not show at this size: there the likeliest expert alone is
best and one that is drawn anew at every time is hopeless, here the former is worst but for uniform weights.
"""

from collections.abc import Iterable
from math import ceil

import torch

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.data.clusters import AtLeast
from hubless.data.projection import PCA
from hubless.learn import Learning, Workload
from hubless.learn.flows.collected import AloneThenCollected, Collection
from hubless.learn.flows.flow import FlowMatching, flow_data
from hubless.learn.flows.gaussians import ring
from hubless.learn.flows.generated import Generation
from hubless.learn.flows.pooled import Descent
from hubless.learn.flows.routed import WEIGH, RoutedFlow, Router, strategies
from hubless.options import Attack, Codec, Count, Data, Fraction, Model, Partition, Positive, Whole
from hubless.recipe import recipe

SCALE = 0.5  # brings the components of digits to about the size of the noise


@recipe(system=22)
def ddm(
    peers: Count = 8,
    data: Data = "mnist",
    components: Count = 64,
    samples: Whole = 20000,
    partition: Partition = "kmeans",
    model: Model = "mlp:128:128",
    rounds: Count = 30,
    steps: Count = 50,
    lr: Positive = 2e-3,
    batch: Count = 32,
    ema: Fraction = 0.99,
    router: Model = "mlp:64",
    router_rounds: Count = 12,
    strategy: str = "full,top-1,uniform,top-2,sample-1,oracle",
    generated: Count = 2000,
    reference: Whole = 8000,
    sampling_steps: Count = 50,
    monolith: bool = True,
    distil: Whole = 0,
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Isolated experts of flow matching, one a cluster, and everything that can be made of them.

    Args:
        peers: experts; the one that collects them is among them
        components: principal components that a sample is described by
        partition: kmeans, or kmeans:fine=0 without fine clusters first; iid are random shards of the data
        model: network of an expert, of one vector: mlp:128:128, softmax, ...
        rounds: of ``steps`` mini-batches each; experts are collected after the last
        lr: learning rate in the first round; it falls linearly to 0
        batch: samples in an expert's mini-batch
        ema: weight of the average so far in the average of parameters that samples are drawn with
        router: network of the router
        router_rounds: rounds of training the router, with mini-batches as large as those of all experts together
        strategy: how the experts are joined, one or several of full, top-1, top-2, sample-1, uniform, oracle
        generated: samples of each strategy
        reference: test samples that they are compared with; 0 takes all
        sampling_steps: Euler steps from noise to a sample
        monolith: also train one model on all data in mini-batches as large as those of all experts together
        distil: rounds of training one student on the answers of the experts; 0 trains none
        attack: what hostile experts send in the end: sign-flip:20%, random-model:20%, ...
    """
    wanted = strategies(strategy)
    projection = PCA.of(data, components, SCALE)
    clean = projection.through(data)
    descent = Descent(lr, rounds, steps, ema)
    half = ceil(batch / 2)
    return Learning(
        workload=Workload(
            flow_data(clean), AtLeast(half, f"half a mini-batch of {batch}", base=partition), peers, model, samples
        ),
        local=descent.local(FlowMatching(), batch),
        overlay=AloneThenCollected(rounds),
        merge=Collection(),
        attack=attack,
        codec=codec,
        hooks=(
            Generation(
                clean, projection, router, routing=Descent(lr, router_rounds, steps, ema), descent=descent, batch=batch,
                strategies=wanted, generated=generated, reference=reference, steps=sampling_steps, monolith=monolith,
                distil=distil,
            ),
        ),
        rounds=rounds,
    )  # fmt: skip


presets = {
    "tiny": dict(peers=3, data="digits", components=6, samples=300, model="mlp:16", rounds=4, steps=5, batch=10,
                 router="mlp:8", router_rounds=2, generated=60, reference=100, sampling_steps=4, distil=1),
    "paper": dict(samples=0, partition="kmeans:1024", model="mlp:1024:1024:1024", rounds=200, steps=500, lr=1e-4,
                  ema=0.999, router="mlp:512:512", router_rounds=20, generated=8000, reference=0, distil=100),
}  # fmt: skip


def identity_error(seed: int, points: int = 3, samples: int = 400_000) -> float:
    """How far the routed field of four exact experts is from the field of their mixture, estimated from its samples.

    The largest difference of a coordinate at ``points`` random places of paths and times from 0.3 to 0.9.
    """
    mixture, draw = ring(4, seed), torch.Generator().manual_seed(seed)
    flow = RoutedFlow([mixture.velocity(k) for k in range(4)], Router(mixture.logits, 4), mixture.shares)
    data, _ = mixture.sample(samples, draw)
    worst = 0.0
    for x0 in mixture.sample(points, draw)[0]:
        t = float(0.3 + 0.6 * torch.rand((), generator=draw))
        x = (1 - t) * x0[None] + t * torch.randn(1, 2, generator=draw, dtype=torch.float64)
        worst = max(worst, float((flow.field("full")(x, t) - mixture.marginal(x, t, data)).abs().max()))
    return worst


def _identity(lab: Lab) -> Iterable[Row]:
    yield at_most("largest gap between the routed field and a Monte-Carlo estimate", map(identity_error, lab.seeds),
                  0.02)  # fmt: skip


def _ratio(above: list[Result], name: str, below: list[Result], other: str) -> list[float]:
    return [a.final(f"frechet_{name}") / b.final(f"frechet_{other}") for a, b in zip(above, below, strict=True)]


def _better(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(clusters=dict(distil=30, evaluate=10), random=dict(partition="iid", monolith=False, strategy="full",
                                                                      evaluate=10))  # fmt: skip
    experts, shards = runs["clusters"], runs["random"]
    yield at_most("Frechet distance of experts of clusters, full, over one model's",
                  _ratio(experts, "full", experts, "one_model"), 0.88, paper="FID 10.52 / 12.81")  # fmt: skip
    yield at_most("the same over experts of random shards, full", _ratio(experts, "full", shards, "full"), 0.88)
    yield at_least("Frechet distance of uniform weights over full", _ratio(experts, "uniform", experts, "full"), 2)
    papers = {"full": "10.52", "top-1": "9.84", "top-2": "10.31", "sample-1": "157", "oracle": "10.46"}
    names = {**{name: name.replace("-", "_") for name in WEIGH}, "one model": "one_model", "student": "student",
             "training samples, the floor": "floor"}  # fmt: skip
    for name, metric in names.items():
        paper = {**papers, "one model": "12.81"}.get(name, "")
        yield reported(f"Frechet distance of {name}", [run.final(f"frechet_{metric}") for run in experts],
                       paper=f"FID {paper}" if paper else "")  # fmt: skip
    yield reported("Frechet distance of random shards, full", [run.final("frechet_full") for run in shards])
    yield reported("bytes of collecting the experts", [run.final("bytes") for run in experts])
    yield reported("work of training the router over that of the experts",
                   [100 * run.final("router_work") for run in experts], unit="%", paper="4 %")  # fmt: skip


claims = [
    Claim("Experts weighed by the posterior of their part have the field of the whole.", _identity,
          paper="the ensemble optimises the same objective as one model (abstract)"),
    Claim("Isolated experts on clusters, joined by a router, sample better than one model of the same work.", _better),
]  # fmt: skip
