"""Random methods at tiny size: each runs, finite and the same twice, or is refused before any work."""

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import BATCHNORM, DROPOUT, GROUPS, PLAIN, build, workload

from hubless.errors import ConfigError
from hubless.learn import (
    SAM,
    SGD,
    Adam,
    Alone,
    Codec,
    ControlVariate,
    Gossip,
    Median,
    Merge,
    Proximal,
    Rotating,
    Scaffold,
    Scheduled,
    ServerOpt,
    Stage,
    Star,
    TrimmedMean,
    WeightedMean,
)
from hubless.learn.attacks import SignFlip
from hubless.parts import make


class Nothing(Stage):
    """Forces bytes."""


class Delta(Stage):
    wants = "delta"


GRADIENTS = [None, SAM(0.05), Proximal(0.1), ControlVariate()]
TOPOLOGIES = [
    "ring",
    "full",
    "grid",
    "star",
    "random-regular:2",
    "erdos-renyi:0.4",
    "one-peer-exponential",
    "edges:none",
]


@st.composite
def locals_(draw):
    length = draw(st.sampled_from([{"steps": 1}, {"steps": 2}, {"epochs": 1}]))
    rest = {"batch": draw(st.sampled_from([0, 5, 200])), "clip": draw(st.sampled_from([0.0, 0.5]))}
    if gradient := draw(st.sampled_from(GRADIENTS)):
        rest["gradient"] = gradient
    keep = draw(st.booleans())
    if draw(st.booleans()):
        return SGD(lr=0.05, momentum=draw(st.sampled_from([0.0, 0.9])), keep=keep, **length, **rest)
    return Adam(lr=0.01, keep=keep, **length, **rest)


@st.composite
def overlays(draw):
    kind = draw(st.sampled_from(["gossip", "star", "rotating", "alone", "scheduled"]))
    if kind == "star":
        return Star(draw(st.integers(0, 7)), draw(st.sampled_from(["size", "one"])))
    if kind == "rotating":
        return Rotating(draw(st.integers(0, 7)), copies=draw(st.integers(1, 3)))
    if kind == "alone":
        return Alone()
    weights = draw(st.sampled_from(["metropolis", "uniform", "data-size"]))
    try:
        gossip = Gossip(make("topology", draw(st.sampled_from(TOPOLOGIES))), draw(st.integers(1, 2)), weights)
    except ConfigError:
        return Alone()
    return gossip if kind == "gossip" else Scheduled(((1, Alone()), (2, gossip)))


MERGES = [
    WeightedMean(), Median(), TrimmedMean(0.2), Merge(WeightedMean(), ("head",)), Merge(Median(), ("trunk",)),
    ServerOpt(rule="adam", lr=0.02), ServerOpt(Median(), rule="yogi", lr=0.02), Scaffold(),
]  # fmt: skip
CODECS = [Codec(), Codec((Nothing(),)), Codec((Delta(), Nothing()))]
FAULTS = [
    "", "loss:0.3", "crash:2@2", "crash:aggregator@2", "crash:30%@2-2,loss:0.1", "data:peer=1@1", "straggler:50%x4",
    "partition:2@2", "link-loss:20%",
]  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    local=locals_(),
    overlay=overlays(),
    merge=st.sampled_from(MERGES),
    codec=st.sampled_from(CODECS),
    attack=st.sampled_from([None, SignFlip(0.3), SignFlip((0, 2), 2.0)]),
    faults=st.sampled_from(FAULTS),
    model=st.sampled_from([PLAIN, GROUPS, BATCHNORM, DROPOUT]),
    partition=st.sampled_from(["iid", "dirichlet:0.3"]),
    peers=st.integers(3, 6),
)
def test_any_method_runs_or_is_refused(local, overlay, merge, codec, attack, faults, model, partition, peers):
    try:
        runs = [
            build(
                local=local, overlay=overlay, merge=merge, codec=codec, attack=attack, rounds=2, kernel="loop",
                workload=workload(peers, partition, model, samples=60), setting={"faults": faults},
            )
            for _ in range(2)
        ]  # fmt: skip
    except ConfigError:
        return
    records, again = (list(run.records()) for run in runs)
    assert [record.line() for record in records] == [record.line() for record in again]
    for record in records:
        assert all(math.isfinite(value) for value in record.metrics.values())
    assert records[-1].metrics.get("loss", 1) > 0  # every honest peer may be gone
