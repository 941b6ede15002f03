"""FecalFed: farms remove duplicates first, then train with an adaptive optimiser on the mean update (arXiv 2604.00559).

Public image sets are full of copies: of more than 16,000 pictures of droppings, 46.89 % were. Split first, and test
images are in training too. Here every peer, a farm, gathers a dirty pool of its own; the farms exchange DIGESTS only
(an exact one, and a difference hash that darkened copies share), the lowest peer keeps an image, and only then a test
part is held out, by class. ``clean`` chooses between that, cleaning at home only, and no cleaning.

Training is FedAdam (arXiv 2003.00295): K local steps, then one Adam step of the aggregator role along the mean update,
weighted by farm size. ``method`` runs the baselines on the same images. All are scored on ``honest`` images that no
farm has (accuracy), and on the part that the split held out (split_accuracy), which a careless report would show. How
much a leak flatters depends on how well a model knows its training images: the claim trains both pools until it does.

No code of the paper was found and its optimiser's values were not seen: beta 0.9 and 0.99, tau 1e-3 are the usual ones
of FedAdam. Hash size and threshold are ours; a coarser hash deletes unique clothes, and digits want threshold 2. The
paper's images are replaced by Fashion-MNIST with injected copies, its Swin networks by a perceptron. Central training
does the same number of gradients on pooled images.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from hubless.claims import Claim, Lab, Row, at_least, at_most, reported
from hubless.data.dataset import Dataset
from hubless.data.dedup import DualHash
from hubless.data.gathered import Gathered, Held
from hubless.learn import SGD, Alone, Learning, Plain, Proximal, ServerOpt, WeightedMean, Workload, aggregation
from hubless.learn.probes import HeldOut
from hubless.options import Count, Data, Fraction, Model, NonNegative, Partition, Positive, Whole
from hubless.recipe import recipe
from hubless.run.record import Record


@recipe(system=33)
def fecalfed(
    peers: Count = 10,
    aggregator: Literal["star", "rotating"] = "star",
    method: Literal["fedadam", "fedavg", "fedprox", "local-only", "centralised"] = "fedadam",
    data: Data = "fashion-mnist",
    samples: Whole = 2000,
    duplicates: Fraction = 0.4689,
    clean: Literal["peers", "own", "none"] = "peers",
    threshold: Whole = 4,
    hash_size: Count = 16,
    test: Fraction = 0.2,
    honest: Whole = 2000,
    partition: Partition = "dirichlet:0.5:40",
    min_size: Count = 10,
    model: Model = "mlp:64",
    rounds: Count = 40,
    lr: Positive = 0.05,
    steps: Count = 10,
    batch: Count = 32,
    mu: NonNegative = 0.01,
    server_lr: Positive = 0.01,
    nonfinite: Literal["stop", "drop"] = "drop",
    seed: Whole = 0,
) -> Learning:
    """Clean across farms by digests, split, then FedAdam; or a baseline on the same images.

    Args:
        method: fedadam, or a baseline: fedavg, fedprox, local-only, or centralised, which pools all images
        samples: unique images before copies are added; 0 takes all there are
        duplicates: share of the gathered images that are copies, half exact, half darkened
        clean: peers compare digests with each other; own, each only within its images; none
        threshold: images whose difference hashes differ in at most so many bits are the same
        hash_size: side of the difference hash, which has its square of bits
        test: share of every class that is held out after cleaning
        honest: images of the data's own test set that score every method; 0 takes all
        partition: who gathers what, copies included
        min_size: fewest training images that a farm may have after cleaning
        mu: weight of FedProx's pull towards the round's start
        server_lr: step of FedAdam; the other methods take the mean update as it is
    """
    unique = data.subset(samples, seed).test_subset(honest, seed)
    gathered = Gathered.of(unique, duplicates, partition, peers, seed)
    cleaned = gathered.cleaned(clean, DualHash(threshold, hash_size))
    train, held_out = cleaned.split(test, seed, unique.classes)
    pooled, alone = method == "centralised", method in ("centralised", "local-only")
    gradient = Proximal(mu) if method == "fedprox" else Plain()
    return Learning(
        workload=_work(unique, train, peers, min_size, model, pooled),
        local=SGD(lr=lr, steps=steps * peers if pooled else steps, batch=batch, gradient=gradient),
        overlay=Alone() if alone else aggregation(aggregator),
        merge=WeightedMean() if alone else ServerOpt(rule="adam", lr=server_lr) if method == "fedadam" else ServerOpt(),
        hooks=(HeldOut("split_accuracy", torch.from_numpy(held_out.x), torch.from_numpy(held_out.y)),),
        figures=tuple(_told(gathered, cleaned, train, held_out)),
        rounds=rounds,
    )


def _work(unique: Dataset, train: Gathered, peers: int, least: int, model: Model, pooled: bool) -> Workload:
    held = train.held(peers, least)
    if pooled:
        held = Held((tuple(range(len(train.y))),))
    data = replace(unique, x=train.x, y=train.y, name=f"{unique.name}, gathered")
    return Workload(data, held, len(held.rows), model, test=len(unique.test_y))


def _told(gathered: Gathered, cleaned: Gathered, train: Gathered, held_out: Gathered) -> Iterator[Record]:
    leaked = float(np.isin(held_out.origin, train.origin).mean())
    figures = {"copies_removed": cleaned.removed(), "unique_lost": cleaned.lost(), "leaked": leaked}
    rows = [
        ["images gathered", len(gathered.y)], ["of them copies", gathered.copies],
        ["left after cleaning", len(cleaned.y)],
        ["copies removed", f"{cleaned.removed():.1%}"], ["unique images lost", f"{cleaned.lost():.1%}"],
        ["images for training", len(train.y)], ["images held out", len(held_out.y)],
        ["of them with a copy in training", f"{leaked:.1%}"],
    ]  # fmt: skip
    table = {"name": "cleaning", "title": "What cleaning did", "type": "table", "columns": ["", ""], "rows": rows}
    yield Record("figure", 0, metrics=figures, data=table)
    if leaked > 0.05:
        text = f"{leaked:.0%} of the images held out have a copy in training: their accuracy flatters"
        yield Record("event", 0, data={"text": text, "level": "warning"})


presets = {
    "tiny": dict(peers=4, data="digits", samples=400, honest=200, threshold=2, hash_size=8, model="mlp:16", rounds=3,
                 steps=2, batch=10, partition="dirichlet:1:20", min_size=2),
    "paper": dict(samples=8770, partition="dirichlet:0.5", min_size=1, rounds=100, steps=50),
}  # fmt: skip


def _cleaning(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(clean={}, own=dict(clean="own"))
    removed = {arm: [100 * run.final("copies_removed") for run in results] for arm, results in runs.items()}
    yield at_least("injected copies that the farms removed by comparing digests", removed["clean"], 97, unit="%")
    lost = [100 * run.final("unique_lost") for run in runs["clean"]]
    yield at_most("unique images that were lost with them", lost, 3, unit="%")
    yield reported("copies removed when every farm cleans only its own images", removed["own"], unit="%")


def _leak(lab: Lab) -> Iterable[Row]:
    fitted = dict(rounds=100, lr=0.1)
    runs = lab.runs(clean=dict(fitted), dirty=dict(clean="none", **fitted))
    gap = {
        arm: [100 * (run.final("split_accuracy") - run.final("accuracy")) for run in results]
        for arm, results in runs.items()
    }
    yield at_least(
        "dirty images: accuracy on the random split minus that on honest images", gap["dirty"], 4, unit="points"
    )
    yield at_most("cleaned images: the same", gap["clean"], 2.5, unit="points")


def _adaptive(lab: Lab) -> Iterable[Row]:
    methods = ("fedadam", "fedavg", "fedprox", "local-only", "centralised")
    runs = lab.runs(**{name.replace("-", "_"): dict(method=name) for name in methods})
    score = {arm: [100 * run.final("accuracy") for run in results] for arm, results in runs.items()}

    def beyond(arm: str) -> list[float]:
        return [a - b for a, b in zip(score["fedadam"], score[arm], strict=True)]

    yield at_least("FedAdam minus lonely farms", beyond("local_only"), 15, unit="points", paper="90.31 against 64.86 %")
    yield at_least("FedAdam minus FedAvg", beyond("fedavg"), -0.5, unit="points")
    yield at_least(
        "FedAdam minus central training", beyond("centralised"), -4, unit="points", paper="90.31 against 95.10 %"
    )
    for arm, values in score.items():
        yield reported(f"accuracy of {arm.replace('_', '-')} on honest images", values, unit="%")


claims = [
    Claim("Two hashes find the copies and spare the rest, by digests alone.", _cleaning,
          paper="8,770 unique of more than 16,000 images"),
    Claim("A split of the dirty pool flatters; a split after cleaning tells the truth.", _leak),
    Claim("FedAdam is far above isolated farms and near central training.", _adaptive),
]  # fmt: skip
