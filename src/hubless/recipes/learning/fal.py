"""FAL: federated adversarial training: attack your own model, learn from that, average (arXiv 2208.03635).

Min-max in a population: in every local step a peer makes adversarial examples against its PRESENT parameters and
descends on them; the role then moves along the mean update, ``U <- U + server_lr mean (W_i - U)``. The inner loop is
the gradient ``Adversarial(PGD(...))``; parameters and statistics stay as they are while it runs. The paper leaves the
map into the ball open; here it is projected gradient ascent with a random start (arXiv 1706.06083), or one step (FGSM).

Robust accuracy is measured in the last round with a stronger attack than the training's, beside the accuracy under
random noise of the same radius: noise worse than the attack would mean that gradients are masked.

Weights start Gaussian, as in the theory. How far FedAvg falls hangs on that: from torch's default start, several times
smaller, a network that has trained so shortly stays smooth, FedAvg keeps about 35 % under attack, and the gap to FAL
shrinks to some 20 points under label skew; those figures are reported, not claimed.

``width`` takes the network of the theorem: ``f_U(x) = sum_r a_r relu(<u_r, x>)`` with Gaussian start, fixed random
signs ``a`` (scaled by 1 / sqrt(width)), and only U trained. With enough width some round has a robust training loss
below any eps, also when data are not IID. The run records that loss on all training data after every round.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.learn import (
    PGD,
    SGD,
    Adversarial,
    Alone,
    Learning,
    Plain,
    ServerOpt,
    WeightedMean,
    Workload,
    aggregation,
)
from hubless.learn.probes import RobustLoss, Robustness
from hubless.models.starts import gaussian
from hubless.models.zoo import Architecture
from hubless.options import Count, Data, Model, NonNegative, Partition, Positive, Whole
from hubless.recipe import recipe


@recipe(system=27)
def fal(
    peers: Count = 10,
    participants: Whole = 0,
    aggregator: Literal["star", "rotating"] = "star",
    method: Literal["fal", "fal-fgsm", "fedavg", "local-only"] = "fal",
    data: Data = "mnist",
    samples: Whole = 4000,
    partition: Partition = "shards:2",
    model: Model = "mlp:128",
    start: Literal["gaussian", "torch"] = "gaussian",
    width: Whole = 0,
    rounds: Count = 40,
    lr: Positive = 0.1,
    steps: Count = 10,
    batch: Count = 32,
    server_lr: Positive = 1.0,
    eps: NonNegative = 0.1,
    norm: Literal["inf", "2"] = "inf",
    attack_steps: Whole = 5,
    attack_size: NonNegative = 0.05,
    clip: bool = True,
    probe: Count = 1000,
) -> Learning:
    """Every peer trains on attacks against itself, and updates are averaged.

    Args:
        method: fal, fal-fgsm (one step of the whole radius), fedavg (clean), or local-only (adversarial, alone)
        start: initial weights: gaussian of variance 2 / inputs, as in the theory, or torch's, several times smaller
        width: hidden units of the theorem's network, in place of model; 0 takes model
        server_lr: step of the aggregator along the mean update
        eps: radius of the ball round a sample, in units of the inputs
        norm: of the ball, inf or 2
        attack_steps: ascent steps of the training attack; the test's has 20 of size eps / 8
        attack_size: length of an ascent step
        clip: keep adversarial inputs in [0, 1]
        probe: test samples that are attacked in the last round
    """
    bounds = (0.0, 1.0) if clip else None
    attack = PGD(eps, attack_size, attack_steps, norm, clip=bounds)
    attack.check(torch.from_numpy(data.x))
    trained = replace(attack, size=eps, steps=1 if eps else 0, start=False) if method == "fal-fgsm" else attack
    network = two_layers(width) if width else gaussian(model) if start == "gaussian" else model
    alone = method == "local-only"
    return Learning(
        workload=Workload(data, partition, peers, network, samples, frozen=("outer",) if width else ()),
        local=SGD(lr=lr, steps=steps, batch=batch, gradient=Plain() if method == "fedavg" else Adversarial(trained)),
        overlay=Alone() if alone else aggregation(aggregator, participants, weigh="one"),
        merge=WeightedMean() if alone else ServerOpt(lr=server_lr),
        hooks=(Robustness(PGD(eps, eps / 8, 20 if eps else 0, norm, clip=bounds), probe),
               *([RobustLoss(attack)] if width else [])),
        kernel="loop" if width else "auto",
        rounds=rounds,
    )  # fmt: skip


class TwoLayers(nn.Module):
    """The theorem's network: inputs ``[B, ...]`` to outputs ``[B, C]`` through ``width`` ReLUs, without biases.

    inner: ``u [width, D]``, standard normal divided by sqrt(D / 2); outer: ``a [C, width]``, signs / sqrt(width), fixed
    """

    def __init__(self, width: int, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(torch.Size(shape).numel(), width, bias=False)
        self.outer = nn.Linear(width, outputs, bias=False)
        nn.init.kaiming_normal_(self.inner.weight)
        nn.init.normal_(self.outer.weight)
        with torch.no_grad():
            self.outer.weight.sign_().div_(width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[B, C]``."""
        out: Tensor = self.outer(torch.relu(self.inner(x.flatten(1))))
        return out


def two_layers(width: int) -> Architecture:
    """The theorem's network for any data."""
    return lambda shape, outputs: TwoLayers(width, shape, outputs)


presets = {
    "tiny": dict(peers=4, data="digits", samples=200, model="mlp:16", rounds=3, steps=2, batch=10, attack_steps=2),
    "paper": dict(peers=5, samples=200, width=4096, partition="iid", rounds=200, steps=5, attack_steps=3),
    "theory": dict(peers=5, samples=200, width=256, partition="iid", rounds=60, steps=5, attack_steps=3, lr=0.3),
}


def _points(runs: dict[str, list[Result]], metric: str, a: str, b: str) -> list[float]:
    return [100 * (x.final(metric) - y.final(metric)) for x, y in zip(runs[a], runs[b], strict=True)]


def _robust(lab: Lab) -> Iterable[Row]:
    methods = ("fal", "fal-fgsm", "fedavg", "local-only")
    small = {f"{name}, torch's start": dict(method=name, start="torch") for name in ("fal", "fedavg")}
    skewed = {**{name: dict(method=name) for name in methods}, **small}
    even = {name: dict(method=name, partition="iid") for name in ("fal", "fedavg")}
    for where, arms in (("IID", even), ("two shards a peer", skewed)):
        runs = lab.runs(**arms)
        gain = _points(runs, "robust_accuracy", "fal", "fedavg")
        yield at_least(f"{where}: robust accuracy of FAL minus FedAvg's", gain, 30, unit="points")
        cost = _points(runs, "accuracy", "fedavg", "fal")
        yield at_most(f"{where}: clean accuracy of FedAvg minus FAL's", cost, 10, unit="points")
        hidden = [100 * (run.final("noise_accuracy") - run.final("robust_accuracy")) for run in runs["fal"]]
        yield at_least(f"{where}: accuracy of FAL under noise minus under attack", hidden, 0, unit="points")
        for name, results in runs.items():
            robust = [100 * run.final("robust_accuracy") for run in results]
            yield reported(f"{where}: robust accuracy of {name}", robust, unit="%")


def _theorem(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**{f"width{w}": {**presets["theory"], "width": w} for w in (32, 256)})
    wide, narrow = ([min(run.series("robust_loss")) for run in runs[name]] for name in ("width256", "width32"))
    first = [run.series("robust_loss")[0] for run in runs["width256"]]
    fall = [low / begin for low, begin in zip(wide, first, strict=True)]
    yield at_most("width 256: lowest robust training loss over that after round 1", fall, 0.3)
    yield at_most("lowest robust training loss at width 256 over that at width 32",
                  [a / b for a, b in zip(wide, narrow, strict=True)], 1)  # fmt: skip
    yield reported("width 256: lowest robust training loss", wide)


claims = [
    Claim("Adversarial training in a population is robust where FedAvg is not, at a small price in clean accuracy.",
          _robust),
    Claim("Robust training loss can be driven down, further in a wider network.", _theorem,
          paper="some round has robust loss <= eps, given enough width and rounds (the main result)"),
]  # fmt: skip
