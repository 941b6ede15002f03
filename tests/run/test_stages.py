"""Experiments of stages: one round each, resumed at the first that is left."""

from dataclasses import replace

import pytest

from hubless.errors import CheckpointError, ConfigError
from hubless.run.record import Experiment, Snapshot
from hubless.run.setting import Setting
from hubless.run.stages import Findings, Stage, Stages


def stages(ran):
    def stage(name):
        def run(seed):
            ran.append(name)
            return Findings(
                {name: float(seed), "last": len(ran)}, events=[f"{name} is odd"], figures=[{"type": "bars"}]
            )

        return Stage(name, run)

    return Stages([stage("a"), stage("b")], {"peers": 3})


def test_each_stage_is_one_round_and_the_end_has_all_metrics():
    run = stages([]).under(Setting(seed=7))
    assert isinstance(run, Experiment)
    records = list(run.records())
    assert [(r.kind, r.round) for r in records] == [
        ("start", 0), ("event", 1), ("event", 1), ("figure", 1), ("round", 1),
        ("event", 2), ("event", 2), ("figure", 2), ("round", 2), ("end", 2),
    ]  # fmt: skip
    assert records[0].data == {"peers": 3, "stages": ["a", "b"]}
    assert records[-1].metrics == {"a": 7.0, "b": 7.0, "last": 2.0}


def test_a_resumed_run_does_not_repeat_a_stage():
    ran = []
    run = stages(ran).under(Setting())
    stream = run.records()
    while next(stream).kind != "round":
        pass
    kept = run.snapshot()
    assert ran == ["a"]
    rest = list(stages(ran).under(Setting()).records(kept))
    assert ran == ["a", "b"]
    assert rest[-1].metrics.keys() == {"a", "b", "last"}
    assert kept.round == 1


def test_a_checkpoint_of_more_stages_is_refused():
    with pytest.raises(CheckpointError, match="after stage 5, but there are 2"):
        list(stages([]).under(Setting()).records(Snapshot(5, {}, {"metrics": {}})))


@pytest.mark.parametrize("given", [{"faults": "loss:0.1"}, {"trainable": "head"}, {"evaluate": 3}])
def test_house_options_that_mean_nothing_are_refused_unless_used(given):
    (name,) = given
    with pytest.raises(ConfigError, match=name):
        stages([]).under(Setting(**given))
    replace(stages([]), uses=(name,)).under(Setting(**given))


def test_no_stage_is_an_error():
    with pytest.raises(ConfigError, match="none is left"):
        Stages([], {}).under(Setting())
