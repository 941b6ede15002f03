import importlib.util
from pathlib import Path

import pytest
from walk import walk

from hubless.errors import ConfigError
from hubless.run import runner
from hubless.run.track import trackers


def test_an_unknown_tracker_and_a_missing_package_are_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        trackers("tensorbord")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hubless\[track\]'"):
        trackers("mlflow")
    assert trackers("") == []


def test_tensorboard_gets_every_metric(tmp_path: Path):
    pytest.importorskip("tensorboard")
    folder = runner.run_recipe(walk, {"rounds": 3}, out=tmp_path / "a", report=False, sinks=trackers("tensorboard"))
    files = list((folder.path / "tensorboard").iterdir())
    assert len(files) == 1
    assert b"spread" in files[0].read_bytes()


def test_mlflow_gets_options_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    runner.run_recipe(walk, {"rounds": 3}, out=tmp_path / "a", report=False, sinks=trackers("mlflow"))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    runs = client.search_runs([client.get_experiment_by_name("hubless").experiment_id])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["rounds"] == "3"
    assert len(client.get_metric_history(runs[0].info.run_id, "bytes")) == 3
