import json
from dataclasses import replace

import numpy as np
import pytest

from hubless.errors import CheckpointError, ConfigError
from hubless.learn.teaching.matchmaker import Matchmaker
from hubless.learn.teaching.matchmaking import Matchmaking, utility
from hubless.run.setting import Setting


def matchmaking(match="linucb", rounds=60, **more):
    overlay = Matchmaker(match, 4, 8, 1, more.pop("context", "compatible"), gains=False)
    return Matchmaking(overlay, 16, rounds, **more)


def run(*args, seed=0, faults="", **more):
    return list(matchmaking(*args, **more).under(Setting(seed=seed, faults=faults)).records())


def regret(records):
    return [record.metrics["regret"] for record in records if record.kind == "round"]


def test_utilities_by_hand():
    profiles = np.array([[0.9, 1.0, 0.0], [0.4, 0.5, 0.5]])
    assert utility(profiles)[0, 1] == pytest.approx(0.5 + 1.5 * 0.5 - 0.3)
    assert utility(profiles)[1, 0] == pytest.approx(-0.5 + 1.5 * 0.5 - 0.3)


def test_an_oracle_regrets_nothing():
    assert regret(run("oracle", 10)) == pytest.approx([0] * 10)


@pytest.mark.parametrize("match", ["linucb", "random", "hetero"])
def test_regret_never_falls_much_and_the_end_says_what_random_pairs_come_to(match):
    records = run(match, 20)
    assert all(b >= a - 1e-9 for a, b in zip(regret(records), regret(records)[1:], strict=False))
    assert records[-1].metrics["regret"] == regret(records)[-1]
    assert records[-1].metrics["regret_of_random"] > 40


def test_learning_pays_and_more_so_late():
    learned, blind = regret(run()), regret(run("random"))
    assert learned[-1] < 0.25 * blind[-1]
    assert learned[-1] - learned[29] < learned[29]


def test_random_pairs_come_to_what_is_said_of_them():
    ends = [run("random", 40, seed=seed)[-1].metrics for seed in range(3)]
    assert sum(m["regret"] for m in ends) == pytest.approx(sum(m["regret_of_random"] for m in ends), rel=0.1)


def test_a_resumed_run_is_the_same():
    asked = matchmaking(rounds=12)
    whole = [record.line() for record in asked.under(Setting()).records()]
    stopped, lines = asked.under(Setting()), []
    for record in stopped.records():
        lines.append(record.line())
        if record.kind == "round" and record.round == 5:
            break
    snapshot = stopped.snapshot()
    kept = replace(snapshot, meta=json.loads(json.dumps(snapshot.meta)))
    lines += [record.line() for record in asked.under(Setting()).records(kept)]
    assert lines == whole
    with pytest.raises(CheckpointError, match="the run has not begun"):
        asked.under(Setting()).snapshot()


def test_what_was_learned_can_be_kept():
    experiment = matchmaking(rounds=3).under(Setting())
    assert experiment.model() == {}
    list(experiment.records())
    assert experiment.model()["A"].shape == (36, 36)


def test_the_dead_are_not_paired():
    records = run("linucb", 6, faults="crash:12@3")
    pairs = [record.metrics["pairs"] for record in records if record.kind == "round"]
    assert pairs == [4, 4, 2, 2, 2, 2]
    assert any(record.kind == "event" for record in records)


def test_figures_are_drawn_at_the_end():
    figures = [record.data for record in run("linucb", 5) if record.kind == "figure"]
    assert [figure["type"] for figure in figures] == ["lines", "heatmap", "heatmap", "heatmap"]
    assert sum(value or 0 for row in figures[1]["values"] for value in row) == 20


def test_too_many_pairs():
    with pytest.raises(ConfigError, match="pairs = 9: must be from 1 to 8"):
        replace(matchmaking(), overlay=Matchmaker("linucb", 9, 8, 1)).under(Setting())
