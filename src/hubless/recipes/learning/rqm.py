"""RQM: differential privacy from randomised quantisation alone (arXiv 2306.11913).

A participant takes one step, clips each coordinate of its update to [-c, c], and sends it as one of m levels, drawn by
the randomised quantisation mechanism (``hubless.learn.privacy.rqm``): levels are kept at random, then the coordinate is
rounded at random between its kept neighbours. The aggregator role adds the integers up, reads off the mean, and steps.
Baselines: the Poisson binomial mechanism (PBM, arXiv 2207.09916), clipping alone, and bare stochastic rounding to the
same levels, whose epsilon is infinite.

What is told about a peer is computed from exact probabilities. Divergences are of ONE coordinate in ONE round; a model
of D coordinates and R rounds has D R of them, and the run's total, which is large, is shown beside them. That peers are
sampled is not counted in their favour. With ``secure`` the aggregator sees only the sum over the participants, of
which it may be one, so that one peer fewer hides the others; every peer then has a row of its own, and ``accuracy`` is
the mean over the models as peers last received them.

Of the source the abstract was read, of algorithm 2 a public implementation. The worst case is taken over the ends
x = +-c of a coordinate there; levels inside [-c, c] can be worse, by some percent, so that is what the run shows, and
the claims give both. PBM's m counts trials: 16 of them have 17 outcomes and need 5 bits where RQM's 16 levels need 4.
EMNIST is not among the data sets, and the scale of its experiments was not read: the preset ``paper`` stands in with
all of MNIST, 1,000 peers and a small convolutional network.
"""

import math
from collections.abc import Iterable, Iterator
from functools import wraps
from typing import Literal

import numpy as np
import torch
from torch import nn

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import SGD, Codec, Learning, ServerOpt, Workload, aggregation, keys
from hubless.learn.codecs import join
from hubless.learn.codecs.bits import packed
from hubless.learn.privacy import PBM, RQM, Clip, Rounding, Spent
from hubless.learn.privacy.coordinates import Coordinatewise
from hubless.learn.privacy.renyi import divergence
from hubless.learn.privacy.rqm import enumerated
from hubless.learn.privacy.spent import hidden_among
from hubless.models.zoo import Architecture
from hubless.options import Attack, Count, Data, Fraction, Model, Partition, Positive, Whole
from hubless.parts import make
from hubless.recipe import recipe
from hubless.run.record import Record

ALPHAS = (2.0, 8.0, 32.0)
SENDERS = (1, 10, 40)


@recipe(system=34)
def rqm(
    peers: Count = 200,
    participants: Whole = 40,
    aggregator: Literal["star", "rotating"] = "star",
    mode: Literal["rqm", "pbm", "clipped", "rounding"] = "rqm",
    secure: bool = False,
    data: Data = "mnist",
    samples: Whole = 8000,
    partition: Partition = "iid",
    model: Model = "softmax",
    start: Literal["zero", "torch"] = "zero",
    rounds: Count = 60,
    lr: Positive = 0.5,
    steps: Count = 1,
    batch: Whole = 0,
    server_lr: Positive = 1.0,
    c: Positive = 0.02,
    levels: Count = 16,
    delta: Positive = 1.0,
    q: Fraction = 0.42,
    trials: Count = 16,
    theta: Positive = 0.25,
    alpha: Positive = 8.0,
    attack: Attack = "none",
) -> Learning:
    """Updates quantised at random, so that no peer's coordinates can be told.

    Args:
        mode: rqm, or a baseline: pbm (Poisson binomial), clipped (not private), rounding (stochastic, not private)
        secure: the aggregator sees only sums, behind pairwise masks
        start: initial weights: zero, for networks without hidden units, or torch's
        batch: samples of a step; 0 takes all of a peer's data
        server_lr: step of the aggregator along the mean update
        c: bound on a coordinate of an update
        levels: levels of rqm and rounding (m)
        delta: how far rqm's levels reach beyond c, in units of c
        q: probability that rqm keeps an inner level, above 0
        trials: trials of pbm (m), which has one outcome more
        theta: how far pbm's probability moves from 1/2, below 1/2
        alpha: order of the Renyi divergence that is shown, above 1
    """
    if not alpha > 1:
        raise ConfigError(f"rqm.alpha = {alpha:g}: must be above 1")
    ours, baseline = RQM(levels, c, delta * c, q), PBM(trials, c, theta)
    mechanisms: dict[str, Coordinatewise] = {"rqm": ours, "pbm": baseline, "rounding": Rounding(levels, c)}
    mechanism = mechanisms.get(mode)
    workload = Workload(data, partition, peers, model if start == "torch" else zeroed(model), samples)
    senders = hidden_among(participants or peers) if secure else 1
    return Learning(
        workload=workload,
        local=SGD(lr=lr, steps=steps, batch=batch),
        overlay=aggregation(aggregator, participants, weigh="one"),
        merge=ServerOpt(lr=server_lr),
        codec=_codec(mechanism, c, secure),
        attack=attack,
        hooks=(Spent(mechanism, alpha, hidden=secure),) if mechanism else (),
        figures=(*_compared(ours, baseline), *_told(mechanism, workload.network().size, rounds, senders)),
        rounds=rounds,
    )


def zeroed(model: Architecture) -> Architecture:
    """A network whose parameters start at 0. Raises ConfigError for one with hidden units, which would stay there."""

    @wraps(model)
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = model(shape, outputs)
        if sum(parameter.dim() > 1 for parameter in module.parameters()) > 1:
            raise ConfigError("rqm.start = 'zero': a network with hidden units stays at 0; use start=torch")
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        return module

    return build


def _codec(mechanism: Coordinatewise | None, c: float, secure: bool) -> Codec:
    codec = mechanism.codec() if mechanism else Codec((Clip(c),))
    return join(codec, make("codec", "secure-sum")) if secure else codec


def _compared(ours: RQM, baseline: PBM) -> Iterator[Record]:
    """Divergences of one coordinate in one round, for a message alone and for sums."""
    rows = [
        [n, alpha, ours.accountant.epsilon(alpha, n), baseline.accountant.epsilon(alpha, n)]
        for n in SENDERS
        for alpha in ALPHAS
    ]
    reading = (
        f"Renyi divergence of one coordinate in one round. Variance at 0: RQM {ours.variance(0.0):.3g}, PBM "
        f"{baseline.variance(0.0):.3g}; bits: {ours.bits} and {baseline.bits}."
    )
    yield Record("figure", 0, data={
        "name": "divergence", "title": "What one coordinate tells", "reading": reading, "type": "table",
        "columns": ["summed peers", "alpha", "RQM", "PBM"], "rows": rows,
    })  # fmt: skip


def _told(mechanism: Coordinatewise | None, size: int, rounds: int, senders: int) -> Iterator[Record]:
    """What the whole run tells about a peer that takes part in every round."""
    if mechanism is None or math.isinf(mechanism.accountant.epsilon(2.0, senders)):
        yield Record("event", 0, data={"text": "epsilon is infinite: nothing is private", "level": "warning"})
        return
    accountant = mechanism.accountant
    rows = [
        ["infinity (pure)" if math.isinf(alpha) else alpha, accountant.epsilon(alpha, senders),
         accountant.total(alpha, size, 1, senders), accountant.total(alpha, size, rounds, senders)]
        for alpha in (*ALPHAS, math.inf)
    ]  # fmt: skip
    yield Record("figure", 0, data={
        "name": "told", "title": "What the run tells about a peer in every round", "type": "table",
        "reading": f"Divergences add up over {size:,} coordinates and {rounds} rounds. "
        f"Seen is {f'the sum over {senders} peers' if senders > 1 else 'every message'}.",
        "columns": ["alpha", "one coordinate", "one round", "whole run"], "rows": rows,
    })  # fmt: skip


presets = {
    "tiny": dict(peers=6, participants=4, data="digits", samples=120, rounds=3, alpha=2.0),
    "paper": dict(peers=1000, samples=0, model="cnn", start="torch", rounds=500, lr=0.1),
}

DRAWS = 200_000
PLACES = (-1.0, -0.4, 0.0, 0.25, 1.0)  # inputs in units of c


def _pair(c: float = 1.5) -> tuple[RQM, PBM]:
    return RQM(16, c, c, 0.42), PBM(16, c, 0.25)


def _divergences(lab: Lab) -> Iterable[Row]:
    ours, baseline = _pair()
    c = ours.c
    gap = abs(ours.variance(0.0) / baseline.variance(0.0) - 1)
    yield at_most("variance at x = 0 against PBM's: relative difference", [gap], 0.05)
    ends = {
        (n, alpha): [one.between(-c, c).epsilon(alpha, n) for one in (ours, baseline)]
        for n in SENDERS
        for alpha in ALPHAS
    }
    worst = {(n, alpha): [one.accountant.epsilon(alpha, n) for one in (ours, baseline)] for n, alpha in ends}
    for where, cells in (("inputs +-c", ends), ("the worst inputs", worst)):
        yield at_least(f"{where}: cells of nine in which RQM tells less", [sum(a < b for a, b in cells.values())], 9)
        alone = min(b / a for (n, _), (a, b) in cells.items() if n == 1)
        yield at_least(f"{where}: PBM's divergence over RQM's, one message, least over alpha", [alone], 2)
        a, b = cells[10, 8.0]
        yield at_least(f"{where}: PBM's divergence over RQM's, sum of 10, alpha 8", [b / a], 2)
    for n, alpha in ((1, 2.0), (10, 8.0)):
        for name, value in zip(("RQM", "PBM"), ends[n, alpha], strict=True):
            yield reported(f"inputs +-c: divergence of {name}, {n} summed, alpha {alpha:g}", [value])
    higher = max(worst[cell][0] / ends[cell][0] - 1 for cell in ends)
    yield reported("RQM at the worst inputs above RQM at +-c, most over the nine cells", [100 * higher], unit="%")


def _samples(lab: Lab) -> Iterable[Row]:
    ours, _ = _pair()
    c, gaps, errors = ours.c, [], []
    for seed in lab.seeds:
        gap, found = 0.0, {}
        for place in PLACES:
            z = ours.encode(torch.full((DRAWS,), place * c), keys.fold(seed, "claim", str(place)))
            found[place] = torch.bincount(z.long(), minlength=ours.outcomes).double().numpy() / DRAWS
            gap = max(gap, float(abs(found[place] - ours.pmf(place * c)).max()))
        gaps.append(gap)
        measured = divergence(np.log(found[-1.0]), np.log(found[1.0]), 2)
        errors.append(abs(measured / ours.between(-c, c).epsilon(2) - 1))
    yield at_most(f"frequencies of {DRAWS:,} draws against exact probabilities: largest difference", gaps, 0.005)
    yield at_most("divergence of the samples against the exact one, alpha 2: relative difference", errors, 0.05)
    steps = [c * i / 50 for i in range(-50, 51)]
    levels = ours.levels()
    bias = max(abs(float(ours.pmf(x) @ levels) - x) for x in steps)
    yield at_most("mean of what a coordinate decodes to, minus it", [bias], 1e-9)
    small = [RQM(m, c, delta * c, q) for m in (2, 3, 8, 10) for delta, q in ((1, 0.42), (2, 0.57), (0.1, 0.9))]
    off = max(float(abs(one.pmf(x) - enumerated(one, x)).max()) for one in small for x in steps[::10])
    yield at_most("probabilities against the enumeration of all sets of levels: largest difference", [off], 1e-12)


def _gain(runs: dict[str, list[Result]], a: str, b: str) -> list[float]:
    return [100 * (x.final("accuracy") - y.final("accuracy")) for x, y in zip(runs[a], runs[b], strict=True)]


def _upload(run: Result) -> float:
    """Bytes of one upload: all that peers other than the aggregator send; half of the messages are uploads."""
    sent = [bytes_ or 0.0 for bytes_ in run.peers("bytes")]
    return sum(sent[1:]) / (run.final("messages") / 2)


def _training(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(**{mode: dict(mode=mode) for mode in ("rqm", "pbm", "clipped", "rounding")})
    yield at_least("accuracy of RQM minus clipped updates", _gain(runs, "rqm", "clipped"), -2, unit="points")
    yield at_least("accuracy of RQM minus PBM", _gain(runs, "rqm", "pbm"), -1, unit="points")
    for mode, results in runs.items():
        yield reported(f"accuracy, {mode}", [100 * run.final("accuracy") for run in results], unit="%")
    size = int(runs["rqm"][0].records[0].data["parameters"])
    levels = len(packed(np.zeros(size, np.uint64), _pair()[0].bits))
    yield at_most("bits of a coordinate, packed", [8 * levels / size], 4)
    yield at_least("bytes of float32 coordinates over those of packed ones", [4 * size / levels], 8)
    for mode in ("rqm", "pbm", "clipped"):
        yield reported(f"bytes of an upload with all headers, {mode}", [_upload(run) for run in runs[mode]])


def _totals(lab: Lab) -> Iterable[Row]:
    bare = Rounding(16, 0.02).accountant.epsilon(2)
    yield at_least("bare stochastic rounding, one coordinate in one round: divergence, alpha 2", [bare], math.inf)
    runs = lab.runs(rqm=dict(mode="rqm"), pbm=dict(mode="pbm"))
    for mode, results in runs.items():
        once, total, pure = (
            [run.final(name) for run in results] for name in ("renyi_coordinate", "renyi_total", "epsilon_total")
        )
        yield reported(f"{mode}, one coordinate in one round: divergence, alpha 8", once)
        yield reported(f"{mode}, all coordinates and rounds: divergence, alpha 8", total)
        yield reported(f"{mode}, all coordinates and rounds: pure epsilon", pure)
    start, rounds = runs["rqm"][0].records[0], runs["rqm"][0].records[-1].round
    summed = _pair()[0].accountant.total(8, int(start.data["parameters"]), rounds, 40)
    yield reported("rqm, all coordinates and rounds, only sums over 40 seen: divergence, alpha 8", [summed])


claims = [
    Claim("At the variance of PBM, RQM tells less about a coordinate, alone and in sums.", _divergences,
          paper="improved privacy-accuracy trade-offs over previous work (abstract)"),
    Claim("Samples, exact probabilities and the enumeration of all sets of levels agree, without bias.", _samples),
    Claim("Training with RQM is about as accurate as with clipping alone, at 4 bits a coordinate.", _training,
          paper="better trade-off than PBM on EMNIST (no figure in the abstract)"),
    Claim("What a whole run tells is the sum over coordinates and rounds, and large.", _totals),
]  # fmt: skip
