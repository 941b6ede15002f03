"""Optional sinks for experiment trackers: TensorBoard and MLflow."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from typing import Any

from hubless.errors import ConfigError, did_you_mean
from hubless.run.folder import RunFolder
from hubless.run.record import Record
from hubless.run.sinks import Sink


class TensorBoard:
    """Scalars of every round in ``tensorboard/`` of the run folder: ``tensorboard --logdir runs``."""

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """A new event file; what a resumed run makes again replaces the old points."""
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder.path / "tensorboard"))

    def write(self, record: Record, seconds: float) -> None:
        """The metrics of a round."""
        if record.kind == "round":
            for name, value in record.metrics.items():
                self._writer.add_scalar(name, value, record.round)

    def close(self, finished: bool) -> None:
        """Flush and close."""
        self._writer.close()


class MLflow:
    """One MLflow run, at MLFLOW_TRACKING_URI or, without it, under ``mlruns/`` beside the run folders."""

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Begin a run, or go on with the one of a resumed folder; its options become parameters."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # mlflow-skinny has no database; plain files are a store that newer versions want to be asked for.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = f"file:{(folder.path.parent / 'mlruns').resolve()}"
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        note = folder.path / "mlflow.txt"
        if note.is_file():
            self._run = note.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        name = "hubless"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=folder.path.name).info.run_id
        note.write_text(self._run + "\n", encoding="utf-8")
        for option, value in config["options"].items():
            self._client.log_param(self._run, option, value)

    def write(self, record: Record, seconds: float) -> None:
        """The metrics of a round."""
        if record.kind == "round":
            stamp = int(time.time() * 1000)
            for name, value in record.metrics.items():
                if math.isfinite(value):
                    self._client.log_metric(self._run, name, value, stamp, record.round)

    def close(self, finished: bool) -> None:
        """Tell MLflow how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


TRACKERS: dict[str, tuple[str, type[TensorBoard] | type[MLflow]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "mlflow": ("mlflow", MLflow),
}


def trackers(names: str) -> list[Sink]:
    """The sinks of ``--track tensorboard,mlflow``; none for empty text.

    Raises ConfigError for an unknown name, or for a package that is missing (``pip install hubless[track]``).
    """
    chosen: list[Sink] = []
    for name in filter(None, (word.strip() for word in names.split(","))):
        if name not in TRACKERS:
            raise ConfigError(f"track: unknown tracker {name!r}; {did_you_mean(name, TRACKERS)}")
        package, sink = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"track = {name!r} needs a package that is missing: pip install 'hubless[track]'")
        chosen.append(sink())
    return chosen
