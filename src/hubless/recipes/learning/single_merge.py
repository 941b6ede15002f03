"""Single merge: gossip hardly at all, and spend communication on one full average at the end (arXiv 2507.06542).

Each peer takes local steps, then pulls the model of one random other with probability ``rate`` and averages (uniform
weights over itself and what it received; a pull counts as one message). The peers look poor, yet the average of their
models is good throughout: ``mergeability`` is that difference, measured on a copy in every round. So communication is
best spent last. ``point`` and ``width`` place the dense window, in shares of the rounds (official code: ``truncate``
with ``point1``, and its windows); the default window is the last round alone, the single merge.

Dense rounds gossip on ``dense``: the full graph, where one exchange is the exact average, or any other with several
``gossip_steps``, or with as many as a ``tolerance`` needs. The last of them may be an all-reduce on a ring (``final``).
A window closes with the merge proper: BatchNorm statistics are computed anew after averaging, and momentum, which is
never sent, starts from zero. ``post_merge_rounds`` gossip on ``dense`` without training.

Paper: ResNet-18 on Tiny ImageNet, 32 peers, 100 steps a round, 300 rounds, rate 0.2, window after 0.997 of them. As in
the official code, peers have equally much data and their own class proportions, drawn from Dirichlet(0.1): ``mixture``.
There, new samples are drawn from these proportions as it goes; here a peer has a fixed share. With ``dirichlet:0.1``,
where some peers have a handful of samples and weigh as much as all others, a late window stays further behind full
averaging. Statistics come from a common loader there; here from each peer's own data, and the results are averaged.
"""

from collections.abc import Iterable
from math import floor
from typing import Literal

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import SGD, Alone, Gossip, Learning, Local, Overlay, Scheduled, Workload
from hubless.learn.merging import SETTLE, Closing, Mergeability, Settle, Untrained
from hubless.learn.ring import AllReduce, RingMean
from hubless.net.topologies import RandomRate
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Fraction,
    Merge,
    Model,
    NonNegative,
    Partition,
    Positive,
    Probability,
    Topology,
    Whole,
)
from hubless.recipe import recipe


@recipe(system=49)
def single_merge(
    peers: Count = 16,
    rate: NonNegative = 0.2,
    point: Probability = 0.99,
    width: Fraction = 0.0,
    dense: Topology = "full",
    gossip_steps: Count = 1,
    tolerance: Fraction = 0.0,
    final: Literal["gossip", "all-reduce"] = "gossip",
    post_merge_rounds: Whole = 0,
    data: Data = "mnist",
    samples: Whole = 6400,
    partition: Partition = "mixture:0.1",
    model: Model = "mlp:64",
    rounds: Count = 100,
    lr: Positive = 0.05,
    decay: Positive = 1.0,
    steps: Count = 5,
    batch: Whole = 32,
    momentum: Fraction = 0.0,
    weight_decay: NonNegative = 0.0,
    reset: bool = True,
    calibration: Count = 20,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Sparse gossip, and a dense window that is best placed last.

    Args:
        rate: models that a peer pulls in a sparse round, in expectation; 0 sends nothing
        point: share of the rounds, above 0, after which the dense window begins; 1 never does
        width: share of the rounds that the window lasts; 0 lasts to the end
        dense: who talks to whom in the window and after the last training round
        gossip_steps: exchanges in a dense round; 1 on the full graph is the exact average
        tolerance: share of the disagreement that a dense round may leave, in place of gossip_steps; 0 takes those
        final: how the last dense round averages: gossip on dense, or an exact all-reduce on a ring of all who answer
        post_merge_rounds: further rounds of dense gossip without training
        batch: samples in a local mini-batch; 0 takes all of a peer's data
        momentum: momentum of the local optimiser; it lasts from round to round and is not sent
        weight_decay: factor on the parameters, added to the gradient
        reset: whether momentum starts from zero when the window closes
        calibration: mini-batches that recompute BatchNorm statistics when the window closes
    """
    if rate > max(peers - 1, 0):
        raise ConfigError(f"single-merge.rate = {rate:g}: a peer has only {peers - 1} others to pull from")
    workload = Workload(data, partition, peers, model, samples)
    statistics = bool(workload.network().buffers)
    repairs = statistics or (reset and momentum > 0)
    sparse = Gossip(RandomRate(rate), weights="uniform") if rate else Alone()
    crowded = Gossip(dense, gossip_steps, "uniform", tolerance)
    closing: Overlay = crowded
    if final == "all-reduce":
        if statistics:
            raise ConfigError(
                "single-merge.final = 'all-reduce': a ring leaves BatchNorm's statistics alone; use gossip"
            )
        if attack is not None or not (merge.plain and merge.reduce.linear and merge.share is None):
            raise ConfigError("single-merge.final = 'all-reduce': a ring adds up means; it needs merge mean, no attack")
        merge = RingMean()
        closing = AllReduce(SETTLE if repairs else "")
    elif repairs:
        closing = Closing(dense, gossip_steps, "uniform", tolerance, statistics=statistics)
    stages: list[tuple[int, Overlay]] = [(1, sparse)]
    if window := _window(rounds, point, width):
        first, last = window
        stages += [(first, crowded), (last, closing), (last + 1, sparse)]
    stages.append((rounds + 1, Untrained(dense, gossip_steps, "uniform", tolerance)))
    sgd = SGD(lr, steps, batch=batch, decay=decay, weight_decay=weight_decay, momentum=momentum, keep=True)
    settle: Local = Settle(batch, calibration if statistics else 1, reset)
    return Learning(
        workload=workload,
        local={"train": sgd, SETTLE: settle},
        overlay=Scheduled(tuple(sorted(dict(stages).items()))),
        merge=merge,
        attack=attack,
        codec=codec,
        hooks=(Mergeability(),),
        rounds=rounds + post_merge_rounds,
    )


def _window(rounds: int, point: float, width: float) -> tuple[int, int] | None:
    """First and last dense round; None where there is none."""
    if not 0 < point <= 1:
        raise ConfigError(f"single-merge.point = {point:g}: must be above 0 and at most 1")
    if point + width > 1 + 1e-9:
        raise ConfigError(f"single-merge.width = {width:g}: a window from {point:g} on ends after the last round")
    first = floor(point * rounds + 1e-9) + 1
    last = min(rounds, max(first, floor((point + width) * rounds + 1e-9))) if width else rounds
    return (first, last) if first <= rounds else None


presets = {
    "tiny": dict(peers=6, data="digits", samples=300, rounds=4, point=0.75, model="mlp:16", steps=2, batch=10),
    "early": dict(point=0.05, width=0.05),
    "middle": dict(point=0.475, width=0.05),
    "late": dict(point=0.95, width=0.05),
    "paper": dict(peers=32, data="hf:zh-plus/tiny-imagenet", samples=0, model="cnn-bn", rounds=300, point=0.997,
                  lr=0.01, steps=100, batch=128, weight_decay=5e-4),
}  # fmt: skip

SETS = ("mnist", "fashion-mnist")


def _mergeable(lab: Lab) -> Iterable[Row]:
    for data in SETS:
        runs = lab.runs(**_arms(data, "sparse", "merged", "lonely"))
        hidden = [100 * (r.final("accuracy_mean_model") - r.final("accuracy")) for r in runs["sparse"]]
        yield at_least(f"accuracy of the average model minus mean local accuracy, {data}", hidden, 15, unit="points")
        gain = _gain(runs["lonely"], runs["merged"])
        yield at_least(
            f"final merge after sparse gossip minus final merge after none, {data}", gain, 10, unit="points",
            paper="one final global merge recovers server-based accuracy (figure 1)",
        )  # fmt: skip


def _late(lab: Lab) -> Iterable[Row]:
    for data in SETS:
        runs = lab.runs(**_arms(data, "early", "middle", "late"))
        yield at_least(
            f"mean local accuracy at the end, late minus early window, {data}", _gain(runs["early"], runs["late"]), 10,
            paper="communication late is worth more (figure 2)", unit="points",
        )  # fmt: skip
        yield reported(f"the same, late minus middle, {data}", _gain(runs["middle"], runs["late"]), unit="points")
        extra = [100 * (b.final("messages") / a.final("messages") - 1) for a, b in zip(runs["early"], runs["late"],
                                                                                      strict=True)]  # fmt: skip
        yield at_most(f"messages of the late window beyond those of the early one, {data}", extra, 3, unit="%")


def _cheap(lab: Lab) -> Iterable[Row]:
    for data in SETS:
        runs = lab.runs(**_arms(data, "merged", "late", "full", "fedavg"))
        for name, said, behind, share in (("merged", "one merge", 10, 5), ("late", "late window", 6, 10)):
            yield at_most(
                f"accuracy behind full averaging in every round: {said}, {data}", _gain(runs[name], runs["full"]),
                behind, unit="points",
            )  # fmt: skip
            yield at_most(f"messages, {said} / full averaging, {data}", _messages(runs[name], runs["full"]), share,
                          unit="%")  # fmt: skip
        yield reported(f"messages, one merge / FedAvg with an aggregator, {data}",
                       _messages(runs["merged"], runs["fedavg"]), unit="%")  # fmt: skip


def _arms(data: str, *names: str) -> dict[str, dict[str, object]]:
    arms: dict[str, dict[str, object]] = {
        "sparse": dict(point=1.0),
        "merged": {},
        "lonely": dict(rate=0.0),
        "early": dict(point=0.05, width=0.05),
        "middle": dict(point=0.475, width=0.05),
        "late": dict(point=0.95, width=0.05),
        "full": dict(point=0.001),
        "fedavg": dict(recipe="fedavg", samples=6400, partition="mixture:0.1", rounds=100, lr=0.05),
    }
    return {name: arms[name] | dict(data=data, evaluate=20) for name in names}


def _gain(low: list[Result], high: list[Result]) -> list[float]:
    return [100 * (b.final("accuracy") - a.final("accuracy")) for a, b in zip(low, high, strict=True)]


def _messages(few: list[Result], many: list[Result]) -> list[float]:
    return [100 * a.final("messages") / b.final("messages") for a, b in zip(few, many, strict=True)]


claims = [
    Claim("The average of sparsely gossiping peers is far better than they are.", _mergeable,
          paper="mergeability of local models (abstract)"),
    Claim("The same messages are worth more late than early.", _late),
    Claim("One merge, or a late window, comes near full averaging at a fraction of its messages.", _cheap,
          paper="a single merging suffices (title)"),
]  # fmt: skip
