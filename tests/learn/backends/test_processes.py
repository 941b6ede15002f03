"""Workers that are processes, and actors of Ray: few tests, because each starts interpreters."""

import importlib.util
import os
import signal

import pytest
from elsewhere import build, lines

from hubless.errors import ConfigError


def test_a_killed_process_is_replaced_and_the_records_are_the_same(caplog):
    options = {"rounds": 3, "peers": 4}
    whole = lines(build("dsgd", **options))
    run = build("dsgd", "processes", **options)
    found = []
    for record in run.records():
        found.append(record.line())
        if record.kind == "round" and record.round == 2:
            os.kill(run._state.crew.hosts[1].process.pid, signal.SIGKILL)
    assert found == whole
    assert "a worker died in round 3" in caplog.text


def test_actors_write_the_same_records_and_a_killed_one_is_replaced(monkeypatch):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options = {"rounds": 3, "peers": 4}
    whole = lines(build("dsgd", **options))
    run = build("dsgd", "ray", **options)
    found = []
    try:
        for record in run.records():
            found.append(record.line())
            if record.kind == "round" and record.round == 2:
                ray.kill(run._state.crew.hosts[0].actor)
    except ConfigError as error:
        pytest.skip(f"ray does not start here: {error}")
    finally:
        ray.shutdown()
    assert found == whole
