"""Model merging: experts become one model, layer by layer or by their predictions (arXiv 2410.13699).

Homogeneous: one peer publishes a base, experts fine-tune it on their own classes and send their whole models once, and
the publisher adds their task vectors, ``theta^l = theta_0^l + sum_e c[l, e] tau_e^l``. CMA-ES searches a coefficient
in [0, 1.5] for every layer and expert from 1/E on; fitness is minus the loss on samples that the publisher holds out.
``rule`` says what is kept of the task vectors (TIES trims and elects signs, DARE drops and rescales); without a search
it is the method itself: mean, slerp, task-arithmetic, ties, dare, fisher, regmean.

Heterogeneous: models of other vocabularies say the most likely tokens at every place of public texts. The pivot aligns
their tokens with its own, takes for each text the predictions of whoever knew it best, and learns
``lam CE + (1 - lam) KL``. Unconstrained: each (pivot, source) pair is fused, and the pivots, of one architecture, are
merged layer by layer.

Paper: nine reasoning language models, seven benchmarks. Of the source only the abstract was at hand; the search, its
values and the fusion follow the literature that it builds on (task arithmetic, evolutionary merging, FuseLLM and its
code). Here: a perceptron on images; ``composition``, a small transformer on strings; small transformers on the
standard library's source, one of characters, one of characters and pairs of them.

The perceptron starts Gaussian. From torch's start, several times smaller, so few steps make weaker models, merged by
whatever method; these figures are reported, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.data.arithmetic import ANSWER, LENGTH, Kind, strings
from hubless.data.partition import Partition, Rows
from hubless.errors import ConfigError
from hubless.learn import SGD, Adam, Learning, Workload
from hubless.learn.fusion.appraisal import Answers, Appraisal, Bits
from hubless.learn.fusion.oneshot import BASE, EXPERTS, PUBLISH, Assembled, OneShot
from hubless.learn.fusion.predictions import Fusion
from hubless.learn.fusion.readers import Chapters, Domain, dataset, reader
from hubless.learn.fusion.unconstrained import FUSE, MORE, ByPhase, Fusing
from hubless.merging import Dare, Fisher, Mean, RegMean, Slerp, TaskArithmetic, Ties
from hubless.merging.method import Method
from hubless.models.starts import gaussian
from hubless.models.vocabulary import Vocabulary
from hubless.options import Attack, Codec, Count, Data, Model, Part, Positive, Probability, Whole
from hubless.recipe import recipe

Rule = Annotated[Any, Part("rule")]
OTHERS = {
    "mean": Method(Mean(), "none"), "slerp": Method(Slerp(), "none"), "ties": Method(Ties(), "none"),
    "dare": Method(Dare(), "none"), "fisher": Method(Fisher(), "none"), "regmean": Method(RegMean(), "none"),
    "scalar": Method(TaskArithmetic(), "scalar"), "layer-wise": Method(TaskArithmetic(), "layer-wise"),
}  # fmt: skip
JUDGED = 32  # texts of each domain that a search over models of texts is judged by
PROBES: dict[str, Kind] = {"addition": "add", "maximum": "max", "composition": "both"}


@recipe(system=35)
def model_merging(
    path: Literal["homogeneous", "composition", "heterogeneous", "unconstrained"] = "homogeneous",
    rule: Rule = "task-arithmetic",
    search: Literal["layer-wise", "scalar", "none"] = "layer-wise",
    generations: Count = 40,
    sigma: Positive = 0.2,
    experts: Count = 3,
    exchange: Literal["one", "all"] = "one",
    rounds: Count = 1,
    data: Data = "fashion-mnist",
    samples: Whole = 4000,
    held: Whole = 20,
    model: Model = "mlp:64:64",
    start: Literal["gaussian", "torch"] = "gaussian",
    base_steps: Count = 200,
    base_lr: Positive = 0.05,
    steps: Count = 300,
    lr: Positive = 0.1,
    batch: Count = 32,
    compare: bool = True,
    pivot: str = "json,csv",
    sources: str = "email",
    fuse: Literal["predictions", "texts", "own"] = "predictions",
    texts: Count = 200,
    length: Count = 64,
    lam: Probability = 0.9,
    top: Count = 10,
    mapped: Literal["edit", "aligned"] = "edit",
    pairs: Count = 128,
    fuse_steps: Count = 60,
    fuse_lr: Positive = 1e-3,
    width: Count = 64,
    codec: Codec = "raw",
    attack: Attack = "none",
) -> Learning:
    """Experts fine-tune apart and become one model.

    Args:
        path: what differs: homogeneous (images), composition (strings), heterogeneous or unconstrained (texts)
        rule: what is kept of task vectors, or the method itself: task-arithmetic, ties:0.2, dare:0.5, mean, fisher, ...
        search: coefficients tuned on held-out samples: one a layer and expert, one for all (scalar), or none
        generations: of CMA-ES, at most
        sigma: standard deviation of CMA-ES' first generation
        experts: peers that fine-tune the base, beside the one that publishes it
        exchange: whom experts send their models to: one (the publisher, who merges) or all (each merges)
        rounds: how often; a later round begins from what was merged
        samples: training images (0 takes all), half of them for the base and half for the experts
        held: validation images of each class
        start: initial weights for images: gaussian of variance 2 / inputs, or torch's, several times smaller
        base_steps: steps of the base, and of every model of texts
        base_lr: learning rate of these steps
        compare: whether the last round also merges the same experts in other ways, for the report
        pivot: modules whose source the pivot of texts learns
        sources: modules whose source the other models of texts learn; / between models
        fuse: what the pivot learns from in the end: predictions, the public texts alone, or more of its own data
        texts: public texts of each source
        length: characters of a text
        lam: weight of the texts beside predictions
        top: tokens whose probabilities are sent at each place of a text
        mapped: a source's token becomes the pivot's nearest by edit distance, or the most often aligned one
        pairs: pairs of characters in the vocabulary of a source
        fuse_steps: steps of the pivot at the end
        fuse_lr: learning rate of these steps, by Adam
        width: of the models of texts
    """
    method = Method(rule, search, sigma, generations)
    local = {PUBLISH: SGD(base_lr, base_steps, batch=batch), "train": SGD(lr, steps, batch=batch)}
    if path == "homogeneous":
        merge = Assembled(method=method)
        others = {name: replace(one, sigma=sigma, generations=generations) for name, one in OTHERS.items()}
        network = gaussian(model) if start == "gaussian" else model
        return Learning(
            Workload(data, Specialists(), experts + 1, network, samples, held), local, OneShot(0, exchange == "all"),
            merge, codec, attack, hooks=(Appraisal(merge, others if compare else {}),), rounds=rounds,
        )  # fmt: skip
    reading = {PUBLISH: Adam(base_lr, base_steps, batch=batch), "train": Adam(base_lr, base_steps, batch=batch)}
    if path == "composition":
        return composed(experts, method, reading, width, exchange == "all", codec, attack, rounds)
    study = Adam(fuse_lr, fuse_steps, batch=batch)
    fusion = Fusion(k=top, lam=1.0 if fuse == "texts" else lam, mapped=mapped, local=study)
    return fused(pivot, sources.split("/"), path == "unconstrained", fuse == "own", method, fusion, reading, texts,
                 length, pairs, width, codec, attack, rounds)  # fmt: skip


def composed(
    experts: int, method: Method, local: dict[str, Adam], width: int, everyone: bool, codec: Any, attack: Any,
    rounds: int,
) -> Learning:  # fmt: skip
    """One expert of addition, one of the maximum; the base has seen both, and nobody their composition."""
    if experts != 2:
        raise ConfigError(f"model-merging.experts = {experts}: path composition has 2, of addition and of the maximum")
    probes = {name: torch.from_numpy(strings(kind)) for name, kind in PROBES.items()}
    addition, maximum, composition = probes.values()
    both = torch.cat([addition, maximum])
    merge = Assembled(method=method, validation=(both, both))
    return Learning(
        Workload(dataset([both, addition, maximum], [composition]),
                 Chapters((len(both), len(addition), len(maximum))), 3, reader(Vocabulary(), LENGTH, width)),
        local, OneShot(0, everyone), merge, codec, attack, rounds=rounds, kernel="loop",
        hooks=(Appraisal(merge), Answers({name: (x, ANSWER) for name, x in probes.items()})),
    )  # fmt: skip


def fused(
    pivot: str, sources: Sequence[str], unconstrained: bool, alone: bool, method: Method, fusion: Fusion,
    local: dict[str, Adam], texts: int, length: int, pairs: int, width: int, codec: Any, attack: Any, rounds: int,
) -> Learning:  # fmt: skip
    """Models of texts: as many pivots as sources where pivots are merged in the end, else one."""
    own, others = Domain(pivot, length), [Domain(modules, length, texts) for modules in sources]
    count = len(others) if unconstrained else 1
    pivots, rest = tuple(range(count)), tuple(range(count, count + len(others)))
    vocabularies = {peer: Vocabulary.of(other.train, pairs) for peer, other in zip(rest, others, strict=True)}
    shares = [own.train, *[own.train[:0]] * (count - 1), *(other.train for other in others)]
    public = torch.cat([other.shared for other in others])
    fusion = replace(fusion, texts=public, sources=vocabularies)
    judged = torch.cat([one.shared[:: -(-texts // JUDGED)] for one in (Domain(pivot, length, texts), *others)])
    weights = Assembled(method=method, validation=(judged, judged))
    network = reader(Vocabulary(), length, width)
    models = [(network, pivots), *((reader(one, length, width), (peer,)) for peer, one in vocabularies.items())]
    tests = {domain.modules: domain.test for domain in (own, *others)}
    return Learning(
        Workload(dataset(shares, list(tests.values())), Chapters(tuple(map(len, shares))), len(shares), network),
        {**local, MORE: fusion.local}, Fusing(pivots, rest, alone),
        ByPhase(parts={BASE: weights, FUSE: fusion, EXPERTS: weights}), codec, attack, models=models, rounds=rounds,
        hooks=(Bits(tests), *([Appraisal(weights)] if unconstrained else [])), kernel="loop",
    )  # fmt: skip


@dataclass(frozen=True)
class Specialists(Partition):
    """Half of the samples, of all classes, for peer 0; of the other half each other peer has classes of its own.

    These are neighbours, as equally many as they go: of ten classes three peers have 0-3, 4-6 and 7-9.
    """

    needs_labels = True

    def deal(self, y: Any, peers: int, rng: np.random.Generator) -> Sequence[Rows]:
        """Raises ConfigError when there are more experts than classes."""
        labels = np.unique(y)
        if peers - 1 > len(labels):
            raise ConfigError(f"experts = {peers - 1}: the data has only {len(labels)} classes to share out")
        order = rng.permutation(len(y))
        base, rest = np.array_split(order, 2)
        return [base, *(rest[np.isin(y[rest], mine)] for mine in np.array_split(labels, peers - 1))]

    def __str__(self) -> str:
        return "half for the base, classes of their own for experts"


TEXTS = dict(base_steps=300, base_lr=5e-3, batch=16)
presets: dict[str, dict[str, Any]] = {
    "tiny": dict(data="digits", samples=400, held=4, model="mlp:16", base_steps=10, steps=10, batch=10, generations=3,
                 compare=False, pairs=8, texts=8, fuse_steps=2, width=8, pivot="csv", sources="fnmatch"),
    "composition": dict(path="composition", experts=2, generations=10, base_steps=600, base_lr=2e-3),
    "fusion": dict(path="heterogeneous", **TEXTS),
    "paper": dict(experts=9, samples=0, held=100, base_steps=2000, steps=3000),
    "unconstrained": dict(path="unconstrained", sources="email/logging", generations=8, **TEXTS),
}  # fmt: skip

ARMS: dict[str, dict[str, object]] = {
    "layer-wise": {},
    "scalar": dict(search="scalar"),
    "mean": dict(rule="mean", search="none"),
    "slerp": dict(rule="slerp", search="none"),
    "ties": dict(rule="ties", search="none"),
    "dare": dict(rule="dare", search="none"),
    "fisher": dict(rule="fisher", search="none"),
    "regmean": dict(rule="regmean", search="none"),
}


def _layers(lab: Lab) -> Iterable[Row]:
    small = {f"{name}, torch's start": {**ARMS[name], "start": "torch"} for name in ("layer-wise", "mean")}
    runs = lab.runs(**{name: {**arm, "compare": False} for name, arm in {**ARMS, **small}.items()})
    layerwise = runs["layer-wise"]
    final = {name: _percent(results, "accuracy") for name, results in runs.items()}
    base, expert = (_percent(layerwise, f"accuracy_{name}") for name in ("base", "expert"))
    for what, other, bound in (("the uniform average", final["mean"], 3), ("the best expert", expert, 15),
                               ("the base", base, 1), ("one tuned scalar", final["scalar"], -0.5)):  # fmt: skip
        gain = [a - b for a, b in zip(final["layer-wise"], other, strict=True)]
        yield at_least(f"accuracy on all classes, layer-wise search minus {what}", gain, bound, unit="points")
    yield reported("accuracy of the base", base, unit="%")
    yield reported("accuracy of the best expert", expert, unit="%")
    for name, values in final.items():
        yield reported(f"accuracy, {name}", values, unit="%")


def _fusion(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**{fuse: {**presets["fusion"], "fuse": fuse} for fuse in ("predictions", "texts", "own")})
    domain, own = "email", "json,csv"
    fall = [_rise(run, domain) for run in runs["predictions"]]
    yield at_least("bits a character on the source's domain, fall by fusion", [-x for x in fall], 5, unit="%")
    more = [run.final(f"bits_{domain}") for run in runs["own"]]
    before = [run.final(f"bits_{domain}_before") for run in runs["predictions"]]
    alone = [100 * (1 - a / b) for a, b in zip(more, before, strict=True)]
    yield at_least("the same minus the fall by as many steps on its own data",
                   [-x - y for x, y in zip(fall, alone, strict=True)], 0, unit="points")  # fmt: skip
    rise = [_rise(run, own) for run in runs["predictions"]]
    yield at_most("bits a character on its own domain, rise by fusion", rise, 5, unit="%")
    yield reported("bits a character on the source's domain, fall by the texts alone (lam = 1)",
                   [-_rise(run, domain) for run in runs["texts"]], unit="%")  # fmt: skip
    yield reported("texts that the source knew better", _percent(runs["predictions"], "taken"), unit="%")


def _composed(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(composition=presets["composition"], unconstrained=presets["unconstrained"])
    for name in PROBES:
        for who, tail in (("merged", ""), ("best expert", "_expert"), ("base", "_base")):
            yield reported(f"right answers, {name}: {who}",
                           _percent(runs["composition"], f"answers_{name}{tail}"), unit="%")  # fmt: skip
    for domain in ("json,csv", "email", "logging"):
        yield reported(f"unconstrained: rise of bits a character from the base, {domain}",
                       [_rise(run, domain) for run in runs["unconstrained"]], unit="%")  # fmt: skip


def _percent(runs: list[Result], metric: str) -> list[float]:
    return [100 * run.final(metric) for run in runs]


def _rise(run: Result, domain: str) -> float:
    return 100 * (run.final(f"bits_{domain}") / run.final(f"bits_{domain}_before") - 1)


claims = [
    Claim("Coefficients a layer beat the average, every expert and the base.", _layers,
          paper="fine-grained layer-wise merging of homogeneous models (abstract)"),
    Claim("A model learns another domain from a model of another vocabulary, and keeps its own.", _fusion,
          paper="heterogeneous merging on probabilistic distribution knowledge (abstract)"),
    Claim("What composes, reported: two tasks in one string, two fused pivots in one model.", _composed,
          paper="combinatorial reasoning emerges from merging (abstract)"),
]  # fmt: skip
