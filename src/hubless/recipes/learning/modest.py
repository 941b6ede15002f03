"""MoDeST: a hash that any peer can compute says who trains and who averages in a round (arXiv 2302.13837).

Few peers work at a time, as in federated learning, but nobody is a server. SHA-256 of (peer, round) orders the peers;
the first s live ones of round t train, the first a live ones of round t + 1 average what those made and send it to the
s of round t + 1. Whether a candidate lives, a ping tells: who does not answer within ``timeout`` is passed over. Who
is a candidate, a view tells that every peer keeps and that travels with the models: the last round in which each peer
was heard of, and a counter of its joins and leaves; two views merge by the larger number of each entry. A peer that
nobody heard of for ``inactivity`` rounds is no longer asked.

The metrics (accuracy, loss) are those of this round's averages; other peers hold older models. Bytes and messages
count everything: models, the views on them, pings, pongs, acknowledgements and announcements; ``control_messages`` are
those without a model. ``sampled`` is how many live peers the next sample has, ``wasted_pings`` how many got no answer.

The source (its code, sacs-epfl/plexus) orders by MD5; its values are s = 13, a = 1, success 0.8 or 1, 5 local steps of
20 samples, inactivity 50 rounds, timeout 5 s, patience 300 s. Beyond its patience an aggregator there needs 3 models
and otherwise drops the round, which nobody restarts: with s = 10 and 80 % of the peers gone at once, training mostly
ends. Here it goes on with ``quorum`` models, and when none could be averaged the last average is sent out again.
Without pings (ours) a peer sends its work down the list until somebody takes it, and a sample may be mostly dead. A
population advances in whole rounds: nobody's training is interrupted, and what an aggregator receives beyond s times
success models is ignored rather than the slowest.
"""

import statistics
from collections.abc import Iterable

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.learn import SGD, Learning, Workload
from hubless.learn.sampled import Sampled
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
    Whole,
)
from hubless.recipe import recipe


@recipe(system=41)
def modest(
    peers: Count = 60,
    participants: Count = 10,
    aggregators: Count = 1,
    pings: bool = True,
    inactivity: Count = 50,
    timeout: NonNegative = 5.0,
    patience: NonNegative = 300.0,
    success: Probability = 1.0,
    quorum: Count = 1,
    data: Data = "mnist",
    samples: Whole = 6000,
    partition: Partition = "dirichlet:0.5",
    model: Model = "mlp:50",
    rounds: Count = 80,
    lr: Positive = 0.1,
    steps: Count = 5,
    batch: Count = 20,
    momentum: Fraction = 0.0,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Decentralised sampling: a few peers train, one or two of the next few average.

    Args:
        participants: peers that train in a round (s)
        aggregators: peers of the next sample that average (a); more than one survive each other, and cost more bytes
        pings: whether a peer makes sure that those it chooses are alive
        inactivity: rounds after which a peer that nobody heard of is no candidate any more
        timeout: seconds to wait for a pong, or for a peer to take a model
        patience: seconds after which an aggregator goes on with the models it has
        success: share of the sample whose models an aggregator waits for
        quorum: models without which it does not go on when its patience ends
    """
    return Learning(
        workload=Workload(data, partition, peers, model, samples),
        local=SGD(lr=lr, steps=steps, batch=batch, momentum=momentum),
        overlay=Sampled(participants, aggregators, inactivity, timeout, patience, success, quorum, pings),
        merge=merge,
        attack=attack,
        codec=codec,
        rounds=rounds,
    )


presets = {
    "tiny": dict(peers=8, participants=3, data="digits", samples=300, rounds=4, model="mlp:16", steps=2, batch=10),
    "paper": dict(peers=355, participants=13, success=0.8, quorum=3, samples=0, model="cnn", lr=0.004, rounds=1000),
}

TARGET = 0.85
CRASH = 30
STORM = dict(faults="crash:80%@30", rounds=100)
CROWD = dict(peers=60, samples=6000, partition="dirichlet:0.5", model="mlp:50", lr=0.1, steps=5, batch=20)


def _models_to(result: Result, target: float) -> float:
    """Models sent until the accuracy was first at the target, or in the whole run when it never was."""
    rounds = [record.metrics for record in result.records if record.kind == "round"]
    metrics = next((m for m in rounds if m.get("accuracy", 0.0) >= target), rounds[-1])
    return metrics["messages"] - metrics.get("control_messages", 0.0)


def _as_fast(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(
        modest={}, two=dict(aggregators=2), server=dict(recipe="fedavg", participants=10, rounds=80, **CROWD)
    )
    needed = {arm: [r.rounds_to("accuracy", TARGET) for r in results] for arm, results in runs.items()}
    yield reported("rounds to 85 % with a server (FedAvg, same s)", needed["server"])
    bound = 1.25 * statistics.fmean(needed["server"]) + 2
    yield at_most("rounds to 85 %, one aggregator, at most 1.25 x FedAvg + 2", needed["modest"], bound)
    yield at_most("rounds to 85 %, two aggregators, at most 1.25 x FedAvg + 2", needed["two"], bound)


def _cheaper(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(
        modest={},
        ring=dict(recipe="dsgd", topology="ring", rounds=80, **CROWD),
        exponential=dict(recipe="dsgd", topology="one-peer-exponential", rounds=80, **CROWD),
    )
    sent = {arm: [_models_to(r, TARGET) for r in results] for arm, results in runs.items()}
    for arm, label in (("modest", "MoDeST"), ("ring", "D-SGD, ring"), ("exponential", "D-SGD, one-peer exponential")):
        yield reported(f"models sent to 85 %, or in all 80 rounds: {label}", sent[arm])
    ratio = [min(a, b) / m for m, a, b in zip(sent["modest"], sent["ring"], sent["exponential"], strict=True)]
    yield at_least("models that the better D-SGD sends for one of MoDeST's", ratio, 3)


def _outlives(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(pings=STORM, blind=dict(pings=False, **STORM))
    after = slice(CRASH, None)  # the sample of the crash's own round was drawn before it
    found = [min(r.series("sampled")[CRASH - 1 :]) for r in runs["pings"]]
    yield at_least("fewest live peers in a sample drawn after 80 % crashed, of s = 10", found, 10)
    blind = [statistics.fmean(r.series("sampled")[CRASH - 1 : CRASH + 29]) for r in runs["blind"]]
    yield at_most("without pings: distance from s / 5 live peers, mean of 30 rounds", [abs(b - 2) for b in blind], 1)
    worst = {arm: [100 * min(r.series("accuracy")[after]) for r in results] for arm, results in runs.items()}
    yield reported("worst accuracy after the crash, with pings", worst["pings"], unit="%")
    gain = [a - b for a, b in zip(worst["pings"], worst["blind"], strict=True)]
    yield at_least("worst accuracy after the crash, gain by pings", gain, 5, unit="points")
    kept = [100 * (r.series("accuracy")[-1] - r.series("accuracy")[CRASH - 2]) for r in runs["pings"]]
    yield at_least("final accuracy minus that before the crash", kept, -3, unit="points")
    share = []
    for r in runs["pings"]:
        wasted = r.series("wasted_pings")
        share.append(100 * statistics.fmean(wasted[CRASH + 50 - 1 :]) / max(wasted))
    yield at_most("wasted pings a round, 50 rounds after the crash, of their peak", share, 20, unit="%")


def _agree(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(modest={}, pings=STORM, joining=dict(faults="join:20@20"))
    split = [max(max(r.series("disagreements")) for r in results) for results in zip(*runs.values(), strict=True)]
    yield at_most("peers with equal views that computed different samples, in any round", split, 0)
    joined = [_met(r) for r in runs["joining"]]
    yield at_least("share of 20 joiners that had worked by the last round", joined, 0.9)


def _met(result: Result) -> float:
    """Of the peers that were not there at first, those that sent more than a joiner's announcements."""
    late = [p for p, alive in enumerate(result.records[1].peers["alive"]) if not alive]
    return sum((result.peers("bytes")[p] or 0) > 100_000 for p in late) / len(late)


def _balanced(lab: Lab) -> Iterable[Row]:
    sent = [[float(value or 0) for value in result.peers("bytes")] for result in lab.runs(modest={})["modest"]]
    over = [max(values) / statistics.fmean(values) for values in sent]
    yield at_most("bytes of the busiest peer over the mean, one aggregator", over, 3)


claims = [
    Claim(
        "Samples found without a server learn as fast as a server's.",
        _as_fast,
        paper="convergence as fast as FL (abstract)",
    ),
    Claim(
        "Far fewer models are sent than when everyone gossips.",
        _cheaper,
        paper="2.4x to 15.3x less communication than DL (abstract)",
    ),
    Claim("Training survives a crash of 80 % of the peers.", _outlives, paper="recovers when 80 % stop responding"),
    Claim("Equal views give equal samples, through churn.", _agree),
    Claim("Work is shared out evenly.", _balanced),
]
