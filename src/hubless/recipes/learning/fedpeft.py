"""FedPEFT: peers tune and share a small part of a frozen pre-trained network (arXiv 2210.01708).

``theta = (phi, delta)``: the backbone phi is the same everywhere, frozen, and never sent; delta is a few parameters and
a new head. A round is FedAvg's on delta alone: the aggregator role sends it to the sampled peers, each takes local
steps on it, and the role replaces it by the mean, weighted by samples. Delta is the head alone, all biases (those of
normalisation layers with them), prompt tokens behind the class token, adapters behind each block's two-layer network,
or low-rank updates of its queries, keys and values. ``full`` tunes everything, ``scratch`` does so without a backbone.
Each message carries a digest of its sender's frozen parameters, and peers with others refuse it.

The paper's differential privacy is ``--privacy central:CLIP:NOISE --weigh one``: what the role adds up is clipped, and
noised once. There, less is noised where less is tuned. The noise of the claims, 0.3 of the clip, shows that, and is far
too small to protect anybody: after 30 rounds, epsilon is 845.

Of the paper abstract, introduction and figure 1 were read, not the tables. The backbone is no ViT-B pre-trained on
ImageNet-21k but a small one of our own, which has seen MNIST's digits 0 to 4 and Fashion-MNIST; peers have the digits 5
to 9. It transfers less, so that tuning a part is as good as or better than tuning all is claimed here with noise only.
The head keeps an output for every label of the data set. Learning rates are tuned for each way of tuning (``RATES``),
at Dirichlet 1.0; the claim under stronger label skew takes a third of them. LoRA, which is not among the ways of which
the claims take the best, does better than these, and stays two points behind full tuning.

``--preset llm`` tunes LoRA on SmolLM2-135M, once ``hubless models get smollm2`` has fetched it; no claim is made there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import torch

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.data.classes import labels, only
from hubless.errors import ConfigError
from hubless.learn import SGD, Hook, Learning, Raw, Reduce, ServerOpt, Workload, aggregation
from hubless.learn import Codec as Pipeline
from hubless.learn import Merge as MergePart
from hubless.learn.codecs import join
from hubless.learn.codecs.stamped import Stamped
from hubless.learn.slots import View
from hubless.learn.tuning.backbone import Backbone, sources
from hubless.models.tuning import adapted, low_rank, prompted
from hubless.models.zoo import Architecture
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
    Privacy,
    Whole,
)
from hubless.recipe import recipe
from hubless.run.record import Record

RATES = {
    "head": 0.09, "bias": 0.03, "prompt": 0.09, "adapter": 0.09, "lora": 0.09, "full": 0.009, "scratch": 0.009,
}  # fmt: skip
MASKS = {
    "head": "head", "bias": "bias+head", "prompt": "prompt+head", "adapter": "adapter+head", "lora": "lora+head",
    "full": "all", "scratch": "all",
}  # fmt: skip


WAYS = tuple(way for way in MASKS if way != "scratch")  # which starts otherwise, and tunes what full tunes


@recipe(system=54)
def fedpeft(
    peers: Count = 16,
    participants: Whole = 8,
    aggregator: Literal["star", "rotating"] = "star",
    weigh: Literal["size", "one"] = "size",
    tune: Literal["head", "bias", "prompt", "adapter", "lora", "full", "scratch"] = "adapter",
    prompts: Count = 8,
    bottleneck: Count = 8,
    rank: Count = 4,
    data: Data = "mnist",
    classes: str = "5-9",
    samples: Whole = 2900,
    partition: Partition = "dirichlet:1.0",
    model: Model = "mini-vit",
    pretrain: str = "mnist/0-4+fashion-mnist",
    pretrain_steps: Count = 2000,
    rounds: Count = 30,
    lr: NonNegative = 0.0,
    decay: Positive = 1.0,
    steps: Count = 10,
    epochs: Whole = 0,
    batch: Whole = 16,
    momentum: Fraction = 0.9,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
    privacy: Privacy = "none",
) -> Learning:
    """Federated averaging of what is tuned of a frozen backbone, and of nothing else.

    Args:
        weigh: how much a participant's work counts: by the size of its data, or one alike; privacy central and secure
            sums need one
        tune: what is tuned beside the head: nothing more (head), biases, prompt tokens, adapters, LoRA; or all (full),
            or all from random weights (scratch)
        prompts: prompt tokens
        bottleneck: width of an adapter
        rank: of LoRA's updates
        classes: labels that peers have of the data: 5-9, 1,3,5, or all
        model: network of the backbone, such as mini-vit:PATCH:WIDTH:LAYERS:HEADS
        pretrain: data sets that the backbone is trained on, with labels, as in mnist/0-4+fashion-mnist
        pretrain_steps: steps of its training, once a machine
        lr: learning rate of a local step; 0 takes one that suits what is tuned
        epochs: passes over a peer's own data a round, in place of steps; 0 counts in steps
        batch: samples in a local mini-batch; 0 takes all of a peer's data
        momentum: momentum of the local optimiser, from zero in every round
        merge: how the aggregator joins what participants tuned: mean (by data size), median, server:adam, ...
    """
    if not isinstance(merge, Reduce) and type(merge) not in (MergePart, ServerOpt):
        raise ConfigError(
            f"fedpeft.merge: {type(merge).__name__} says more than parameters; use one that only reduces (mean, median,"
            " trimmed-mean, ...) or server"
        )
    language = data.task == "language"  # such a model comes pre-trained, with LoRA of its own
    if language and tune != "lora":
        raise ConfigError(f"fedpeft.tune = {tune!r}: a language model of a folder is tuned by lora; see preset llm")
    seen = data if language else only(data, labels(classes, data, "fedpeft.classes"))
    networks: dict[str, Callable[[], Architecture]] = {
        "prompt": lambda: prompted(model, prompts),
        "adapter": lambda: adapted(model, bottleneck),
        "lora": lambda: model if language else low_rank(model, rank),
    }
    ways = {way: networks.get(way, lambda: model)() for way in (["lora"] if language else MASKS)}
    backbone = None
    if tune != "scratch" and not language:
        backbone = Backbone(model, sources(pretrain, "fedpeft.pretrain"), pretrain_steps)
    started = ways[tune] if backbone is None else backbone.into(ways[tune])
    work = Workload(seen, partition, peers, started, samples, test=64 if language else 1000, trainable=MASKS[tune])
    each = {way: replace(work, model=ways[way], trainable=MASKS[way]) for way in WAYS if way in ways}
    agreed = work.network().frozen if language else {} if backbone is None else backbone.values()
    return Learning(
        workload=work,
        local=SGD(lr=lr or RATES[tune], decay=decay, steps=None if epochs else steps, epochs=epochs or None,
                  batch=batch, momentum=momentum),
        overlay=aggregation(aggregator, participants, weigh=weigh),
        merge=merge,
        attack=attack,
        codec=join(Pipeline((Stamped(agreed),)), codec),
        privacy=privacy,
        hooks=(Tradeoff(tune),),
        figures=tuple(_said(each)),
        rounds=rounds,
    )  # fmt: skip


def _said(works: Mapping[str, Workload]) -> Iterator[Record]:
    """What a peer says for each way of tuning that the network takes: numbers, and bytes without the digest."""
    sizes = {}
    for way, work in works.items():
        with suppress(ConfigError):
            sizes[way] = work.network().size
    said = {way: len(Raw().pack({"w": torch.zeros(size)})) for way, size in sizes.items()}
    yield Record("figure", 0, data={
        "name": "said", "title": "What a peer says", "type": "table",
        "reading": "Numbers that are tuned and sent, and bytes of an uncoded message, for each way of tuning.",
        "columns": ["tuned", "numbers", "bytes", "share of full"],
        "rows": [[way, size, said[way], f"{100 * said[way] / said['full']:.1f} %" if "full" in said else ""]
                 for way, size in sizes.items()],
    })  # fmt: skip


@dataclass(frozen=True)
class Tradeoff(Hook):
    """What the run's accuracy cost, in bytes and in privacy: a table after the last round."""

    tune: str

    def round(self, view: View) -> Mapping[str, float]:
        """No metric."""
        if view.t == view.rounds and "accuracy" in view.metrics:
            m = view.metrics
            row = [self.tune, 100 * m["accuracy"], m["bytes"] / m["messages"], m["bytes"] / 1e6, m.get("epsilon")]
            view.draw({
                "type": "table", "name": "tradeoff", "title": "What accuracy cost",
                "reading": "Bytes are those that were sent; epsilon is of a peer with all its data.",
                "columns": ["tuned", "accuracy, %", "bytes of a message", "MB in all", "epsilon"], "rows": [row],
            })  # fmt: skip
        return {}


presets = {
    "tiny": dict(peers=4, participants=2, data="digits", samples=200, model="mini-vit:2:8:1:2", pretrain="digits/0-4",
                 pretrain_steps=5, rounds=3, steps=2, batch=8, prompts=2, bottleneck=2, rank=2),
    "private": dict(weigh="one", privacy="central:1:0.3"),
    "skewed": dict(partition="dirichlet:0.1", lr=0.03),
    "paper": dict(peers=64, participants=8, samples=0, rounds=50, epochs=10),
    "llm": dict(peers=2, participants=0, data="tokens:smollm2:64:csv,json", classes="all", samples=64, partition="iid",
                model="smollm2:4", tune="lora", rounds=2, lr=0.05, steps=2, batch=4, momentum=0),
}  # fmt: skip

PEFT = ("adapter", "prompt", "bias")


def _accuracy(runs: Iterable[Result]) -> list[float]:
    return [100 * run.final("accuracy") for run in runs]


def _gain(runs: Mapping[str, list[Result]], a: str, b: str) -> list[float]:
    return [x - y for x, y in zip(_accuracy(runs[a]), _accuracy(runs[b]), strict=True)]


def _best(runs: Mapping[str, list[Result]], names: Iterable[str]) -> str:
    """The one that is best on average over the seeds."""
    return max(names, key=lambda name: sum(_accuracy(runs[name])))


def _bytes(runs: Mapping[str, list[Result]], way: str) -> list[float]:
    """All bytes sent, in percent of those of full tuning."""
    pairs = zip(runs[way], runs["full"], strict=True)
    return [100 * few.final("bytes") / many.final("bytes") for few, many in pairs]


def _cheap(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**{way: dict(tune=way, evaluate=30) for way in MASKS})
    best = _best(runs, PEFT)
    yield at_least(f"best of {', '.join(PEFT)} ({best}) minus head alone", _gain(runs, best, "head"), 3, unit="points")
    yield at_least("the same minus full tuning", _gain(runs, best, "full"), -6, unit="points",
                   paper="competitive or better (abstract)")  # fmt: skip
    yield at_most("its bytes, of those of full tuning", _bytes(runs, best), 6, unit="%",
                  paper="0.2: 0.68 MB of 328 MB (figure 1)")  # fmt: skip
    yield at_least("bias minus head alone", _gain(runs, "bias", "head"), 1, unit="points")
    yield at_most("bytes of bias, of those of full tuning", _bytes(runs, "bias"), 4, unit="%")
    yield at_least("full tuning of the backbone minus full from scratch", _gain(runs, "full", "scratch"), 5,
                   unit="points")  # fmt: skip
    for way, results in runs.items():
        yield reported(f"accuracy, {way}", _accuracy(results), unit="%")
        yield reported(f"bytes of a message, {way}", [r.final("bytes") / r.final("messages") for r in results])


def _noised(lab: Lab) -> Iterable[Row]:
    rates = {**RATES, "adapter": 0.03}
    noise = dict(weigh="one", privacy="central:1:0.3", evaluate=30)
    runs = lab.runs(**{way: dict(noise, tune=way, lr=rates[way]) for way in WAYS})
    best = _best(runs, PEFT)
    yield at_least(f"clip 1, noise 0.3: best of {', '.join(PEFT)} ({best}) minus full tuning",
                   _gain(runs, best, "full"), 8, unit="points",
                   paper="competitive or better under differential privacy (abstract)")  # fmt: skip
    for way, results in runs.items():
        yield reported(f"clip 1, noise 0.3: accuracy, {way}", _accuracy(results), unit="%")
    yield reported("epsilon of a peer at delta 1e-5", [run.final("epsilon") for run in runs[best]])


def _skewed(lab: Lab) -> Iterable[Row]:
    ways = ("head", "bias", "prompt", "adapter", "full")
    skew = dict(partition="dirichlet:0.1", evaluate=30)
    runs = lab.runs(**{way: dict(skew, tune=way, lr=RATES[way] / 3) for way in ways})
    for way, results in runs.items():
        yield reported(f"Dirichlet 0.1, a third of the learning rate: accuracy, {way}", _accuracy(results), unit="%")


claims = [
    Claim("A few percent of the bytes tune the backbone almost as well as all of them.", _cheap),
    Claim("Where updates are clipped and noised, tuning few parameters is better than tuning all.", _noised),
    Claim("Under strong label skew every way loses, parts of the network more than all of it.", _skewed),
]
