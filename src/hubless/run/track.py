"""Optional sinks for experiment trackers: TensorBoard and MLflow."""

from __future__ import annotations

from hubless.run.sinks import Sink


def trackers(names: str) -> list[Sink]:
    """The sinks of ``--track tensorboard,mlflow``; none for empty text.

    Raises ConfigError for an unknown name, or for a package that is missing (``pip install hubless[track]``).
    """
    raise NotImplementedError
