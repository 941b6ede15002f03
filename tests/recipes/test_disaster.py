"""Disasters: the same peers are struck in every condition, and each takes from them just what it says."""

import math

import numpy as np
import pytest

from hubless.data.partition import IID
from hubless.errors import ConfigError
from hubless.learn.disruption import Disruption, Survivors, Withheld, remains
from hubless.net.edges import Edges
from hubless.net.topologies import BarabasiAlbert, Ring
from hubless.recipes.learning.disaster import _scores, disaster

CONDITIONS = ("none", "data", "relay_none", "conn", "both")
STRUCK = Disruption("none", BarabasiAlbert(2), at=2).struck(10, 0)


def records(**given):
    return list(disaster.build({"threads": 1, **given}, "tiny").records())


def rounds(found):
    return [record for record in found if record.kind == "round"]


def test_the_tiny_preset_gives_the_same_finite_records_twice():
    once, again = records(), records()
    assert [r.line() for r in once] == [r.line() for r in again]
    assert all(math.isfinite(value) for r in rounds(once) for value in r.metrics.values())
    assert "3 of 10 peers (top-degree) crash" in [r.data.get("text") for r in once]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_takes_what_it_says(condition):
    found = records(condition=condition)
    samples, last = found[0].data["samples"], rounds(found)[-1]
    withheld = condition in ("relay_none", "conn")
    assert sum(samples) == 200
    assert [peer for peer, n in enumerate(samples) if n == 0] == (list(STRUCK) if withheld else [])
    assert last.metrics["alive"] == (7 if condition in ("conn", "both") else 10)
    assert last.metrics["trained"] == (10 if condition == "none" else 7)
    assert rounds(found)[0].metrics["trained"] == (7 if withheld else 10)
    scores = last.peers["accuracy"]
    mean = np.mean([scores[peer] for peer in range(10) if peer not in STRUCK])
    assert last.metrics["accuracy_survivors"] == pytest.approx(mean), "over the same peers in all conditions"


def test_peers_without_data_pass_on_what_they_hear():
    """They learn although they never train."""
    found = records(condition="relay_none", rule="random", topology="ring", peers=6, fraction=0.4, rounds=12)
    bare = [peer for peer, n in enumerate(found[0].data["samples"]) if n == 0]
    scores = rounds(found)[-1].peers["accuracy"]
    assert len(bare) == 2
    assert min(scores[peer] for peer in bare) > 0.3


@pytest.mark.parametrize("rule", ["top-degree", "random", "betweenness"])
@pytest.mark.parametrize("seed", [0, 1])
def test_who_is_struck_follows_from_rule_and_seed_and_the_schedule_strikes_the_same(rule, seed):
    found = records(condition="both", rule=rule, seed=seed, peers=12)
    struck = Disruption("both", BarabasiAlbert(2), rule, at=2).struck(12, seed)
    assert [peer for peer, alive in enumerate(rounds(found)[-1].peers["alive"]) if not alive] == list(struck)
    if rule == "top-degree":
        degree = BarabasiAlbert(2).edges(12, 0, seed).degree
        assert min(degree[list(struck)]) >= max(np.delete(degree, struck))


def test_the_rest_of_the_partition_loses_and_repeats_nothing():
    y = np.arange(60) % 10
    parts = Withheld(IID(), Disruption("conn", BarabasiAlbert(2))).split(y, 10, 0)
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert [peer for peer, part in enumerate(parts) if not len(part)] == list(STRUCK)


def test_what_remains_of_a_graph():
    """A star of 0 with a path 4-5-6 and a leaf 7; without the centre the leaves 1 to 3 are alone."""
    edges = Edges.of(8, [0, 0, 0, 0, 4, 5, 0], [1, 2, 3, 4, 5, 6, 7])
    assert remains(edges, [0]) == ([4, 5, 6], [1, 2, 3, 7])
    assert remains(edges, [])[1] == []


def test_survivors_need_scores():
    hook = Survivors(Disruption("none", Ring(), fraction=0.0))
    assert hook.metrics([], 4, 0) == {}
    assert hook.metrics([0.5, 0.7, None, 0.6], 4, 0) == pytest.approx(
        {"accuracy_survivors": 0.6, "accuracy_largest": 0.6}
    )


def test_the_claims_scores_are_those_of_the_whole_test_set():
    from hubless.claims import Result

    found = records(condition="none")
    result = Result("disaster", disaster.resolve({}, "tiny") | {"condition": "none", "seed": 0}, found)
    scores = found[-1].peers["accuracy"]
    mean = 100 * np.mean([scores[peer] for peer in range(10) if peer not in STRUCK])
    assert _scores(result)["accuracy_survivors"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(fraction=1.0), "fraction"),
        (dict(fraction=-0.1), "fraction"),
        (dict(fraction=0.99), "no peer is left"),
        (dict(condition="data", fraction=0.99), "no peer has data left"),
        (dict(condition="relay_none", fraction=0.99), "no peer is left"),
        (dict(at=5), "at = 5"),
        (dict(condition="links"), "condition"),
        (dict(rule="degree"), "rule"),
        (dict(topology="edges:MISSING"), "MISSING"),
        (dict(samples=5), "samples"),
    ],
)
def test_bad_options_are_refused_before_any_work(given, said):
    with pytest.raises(ConfigError, match=said):
        disaster.build(given, "tiny")


def test_a_graph_that_is_not_connected_is_refused(tmp_path):
    (tmp_path / "edges.txt").write_text("0 1\n2 3\n4 5\n6 7\n8 9\n")
    with pytest.raises(ConfigError, match="not connected"):
        disaster.build({"topology": f"edges:{tmp_path / 'edges.txt'}"}, "tiny")
