"""Where the rounds of a run are computed: in this process, in processes of this machine, or in Ray actors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubless.errors import ConfigError

if TYPE_CHECKING:
    from hubless.learn.backends.crew import Crew
    from hubless.learn.learning import Run
    from hubless.learn.wiring import Wiring


def check(run: Run) -> None:
    """Raise ConfigError for a run that cannot be computed where its setting says."""
    backend = run.setting.backend
    if backend == "in-process":
        return
    from hubless.learn.backends.crew import shares
    from hubless.learn.shards import splittable

    if run.setting.device != "cpu":
        raise ConfigError(f"backend = {backend!r}: workers compute on the CPU; use in-process for device = 'cuda'")
    for peers in shares(run):
        splittable(run, peers, remote=False)
    if backend == "ray":
        from importlib.util import find_spec

        if find_spec("ray") is None:
            raise ConfigError("backend = 'ray': Ray is not installed; pip install 'hubless[ray]'")


def start(run: Run, wiring: Wiring) -> Crew | None:
    """The workers of a run, started; None where it runs in this process."""
    backend = run.setting.backend
    if backend == "in-process":
        return None
    from hubless.learn.backends.crew import Crew, shares
    from hubless.run.machine import cores

    threads = max(1, (run.setting.threads or cores()) // len(shares(run)))
    if backend == "ray":
        from hubless.learn.backends.actors import Actor

        return Crew(run, wiring, run.faults, Actor, threads)
    from hubless.learn.backends.hosts import Process

    return Crew(run, wiring, run.faults, Process, threads)
