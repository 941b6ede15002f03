"""Disasters: hubs of a scale-free graph lose their data, their links, or both (arXiv 2310.02986, 2405.02377).

Peers on a Barabasi-Albert graph learn by decentralised averaging: local steps, then the mean of oneself and one's
neighbours, weighted by the number of training samples. At round ``at`` a share of the peers, those with the most
links unless told otherwise, is struck. Five conditions tell what hurts apart:

    none        nothing is lost
    data        the struck peers lose their data and go on relaying
    relay_none  the struck peers never had data, all of it is with the others; nothing is lost
    conn        as relay_none, then the struck peers are gone
    both        they had their share, and are gone with it

The loss of data is none minus data, that of connections relay_none minus conn: each has its own baseline, because
where the data are matters by itself. ``accuracy_survivors`` is the mean over the peers that are not struck, the same
ones in all conditions; ``accuracy_largest`` and ``accuracy_isolated`` are those in the largest component of the graph
without the struck peers, and those without any neighbour there.

A peer without data counts as much as the mean of the others when it is averaged (ours), else it would never pass on
what it knows. A graph that is not connected to begin with is refused. Of the papers only the abstracts were read: the
graph and the questions are theirs, the sizes, also those of the preset ``paper``, are ours. 40 samples a peer are few
on purpose, so that working together matters.
"""

import statistics
from collections.abc import Iterable
from typing import Literal

from hubless.claims import Claim, Lab, Result, Row, at_least, at_most, reported
from hubless.errors import ConfigError
from hubless.learn import SGD, Gossip, Learning, Workload
from hubless.learn.disruption import Disruption, Survivors
from hubless.options import (
    Attack,
    Codec,
    Count,
    Data,
    Fraction,
    Merge,
    Model,
    Partition,
    Positive,
    Topology,
    Weights,
    Whole,
)
from hubless.parts import make
from hubless.recipe import recipe


@recipe(system=43)
def disaster(
    condition: Literal["none", "data", "relay_none", "conn", "both"] = "both",
    rule: Literal["top-degree", "random", "betweenness"] = "top-degree",
    fraction: Fraction = 0.3,
    at: Count = 5,
    peers: Count = 50,
    topology: Topology = "barabasi-albert:2",
    weights: Weights = "data-size",
    data: Data = "mnist",
    samples: Whole = 2000,
    partition: Partition = "iid",
    model: Model = "mlp:50",
    rounds: Count = 60,
    lr: Positive = 0.1,
    epochs: Count = 2,
    batch: Count = 20,
    merge: Merge = "mean",
    attack: Attack = "none",
    codec: Codec = "raw",
) -> Learning:
    """Decentralised averaging on a graph that loses its hubs.

    Args:
        condition: what the struck peers lose: none, data, relay_none (never had data), conn (never had data, are
            gone), both
        rule: which peers are struck: those of the highest degree or betweenness, or random ones
        fraction: share of the peers that is struck
        at: first round without what is lost
    """
    if at > rounds:
        raise ConfigError(f"disaster.at = {at}: the disaster would come after the last round; rounds = {rounds}")
    disruption = Disruption(condition, topology, rule, fraction, at)
    return Learning(
        workload=Workload(data, disruption.share_out(partition), peers, model, samples),
        local=SGD(lr=lr, epochs=epochs, batch=batch),
        overlay=Gossip(topology, weights=weights),
        merge=merge,
        attack=attack,
        codec=codec,
        hooks=(Survivors(disruption),),
        rounds=rounds,
        faults=disruption.schedule,
    )


presets = {
    "tiny": dict(peers=10, data="digits", samples=200, model="mlp:16", rounds=4, at=2, batch=10),
    "paper": dict(peers=100, samples=0, rounds=200, at=20, model="mlp:128"),
}

ARMS = dict(
    none=dict(condition="none"),
    data=dict(condition="data"),
    relay=dict(condition="relay_none"),
    conn=dict(condition="conn"),
    both=dict(condition="both"),
    relay_random=dict(condition="relay_none", rule="random"),
    conn_random=dict(condition="conn", rule="random"),
    alone=dict(condition="relay_none", faults="link-loss:100%"),
)


def _scores(result: Result) -> dict[str, float]:
    """The recipe's own metrics at the end, on the whole test set, in percent."""
    o = result.options
    topology = make("topology", o["topology"])
    disruption = Disruption(o["condition"], topology, o["rule"], o["fraction"], o["at"])
    found = Survivors(disruption).metrics(result.peers("accuracy"), o["peers"], o["seed"])
    return {name: 100 * value for name, value in found.items()}


def _survivors(lab: Lab) -> dict[str, list[float]]:
    """Mean accuracy of the survivors of each arm, in percent, a value a seed."""
    runs = lab.runs(**{name: dict(arm, evaluate=1000) for name, arm in ARMS.items()})
    return {name: [_scores(result)["accuracy_survivors"] for result in results] for name, results in runs.items()}


def _minus(a: list[float], b: list[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def _links_matter(lab: Lab) -> Iterable[Row]:
    score = _survivors(lab)
    for arm in ("none", "data", "relay", "conn", "both"):
        yield reported(f"accuracy of the survivors, {ARMS[arm]['condition']}", score[arm], unit="%")
    data, conn = _minus(score["none"], score["data"]), _minus(score["relay"], score["conn"])
    yield at_least("loss by connections minus loss by data", _minus(conn, data), 5, unit="points")


def _hubs_matter(lab: Lab) -> Iterable[Row]:
    score = _survivors(lab)
    targeted = _minus(score["relay"], score["conn"])
    chance = _minus(score["relay_random"], score["conn_random"])
    bound = statistics.fmean(targeted) / 3
    yield at_most("loss by as many random peers, at most a third of that by hubs", chance, bound, unit="points")


def _cut_off(lab: Lab) -> Iterable[Row]:
    runs = lab.runs(conn=dict(ARMS["conn"], evaluate=1000))["conn"]
    scores = [score for result in runs if "accuracy_isolated" in (score := _scores(result))]
    gap = [score["accuracy_largest"] - score["accuracy_isolated"] for score in scores]
    if gap:  # elsewhere than at the defaults, nobody may be cut off
        yield at_least("largest component minus isolated survivors, conn", gap, 8, unit="points")


def _still_worth_it(lab: Lab) -> Iterable[Row]:
    score = _survivors(lab)
    gain = _minus(score["conn"], score["alone"])
    yield at_least("survivors, conn, minus the same peers without any link from the start", gain, 5, unit="points")


claims = [
    Claim("Losing hubs' links hurts more than losing their data.", _links_matter, paper="2310.02986, abstract"),
    Claim("Random losses hurt far less than the loss of hubs.", _hubs_matter, paper="2310.02986, abstract"),
    Claim("Those who are cut off fall behind the largest component.", _cut_off),
    Claim("The network stays relatively robust.", _still_worth_it, paper="10-20 % loss (2405.02377, abstract)"),
]
