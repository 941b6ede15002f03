"""Workers as Ray actors, on this machine or, with RAY_ADDRESS, on a cluster."""

from __future__ import annotations

import logging
import os
from typing import Any

from hubless.errors import ConfigError
from hubless.learn.backends.hosts import HostLost


def ready() -> Any:
    """Ray, started. Raises ConfigError when it is not installed or does not start."""
    try:
        import ray
    except ImportError:
        raise ConfigError("backend = 'ray': Ray is not installed; pip install 'hubless[ray]'") from None
    if not ray.is_initialized():
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change to come
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, log_to_driver=False,
                logging_level=logging.WARNING, configure_logging=False,
            )  # fmt: skip
        except Exception as error:
            raise ConfigError(f"backend = 'ray': Ray does not start: {error}") from error
    return ray


class Actor:
    """One actor that holds a worker."""

    def __init__(self) -> None:
        self.ray = ready()
        self.actor = self.ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy="SPREAD")(Holder).remote()
        self.pending: Any = None

    def send(self, command: bytes) -> None:
        """Give a command."""
        self.pending = self.actor.handle.remote(command)

    def receive(self) -> bytes:
        """Wait for the answer."""
        try:
            answer: bytes = self.ray.get(self.pending)
        except self.ray.exceptions.RayActorError as error:
            raise HostLost(f"actor: {str(error).splitlines()[0]}") from None
        return answer

    def close(self) -> None:
        """End it, whatever it does."""
        self.ray.kill(self.actor)


class Holder:
    """What lives in the actor's process."""

    def __init__(self) -> None:
        from hubless.learn.backends.worker import Worker

        self.worker = Worker()

    def handle(self, command: bytes) -> bytes:
        """The answer to a command."""
        return self.worker.handle(command)
