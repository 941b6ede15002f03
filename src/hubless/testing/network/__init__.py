"""Conformance of the message side: call ``check_network`` on a transport, or a network, of your own."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hubless.errors import ConfigError, did_you_mean
from hubless.net.identity import Identity
from hubless.net.network import Network
from hubless.net.transports.clock import run_sim
from hubless.net.transports.transport import Transport
from hubless.testing.network.calls import CALLS
from hubless.testing.network.hostile import HOSTILE
from hubless.testing.network.lab import Lab
from hubless.testing.network.services import SERVICES, conversation, failing_task

Make = Callable[[Identity], Transport]
ALIKE = (
    "two runs of a simulation differ: above a transport take time, randomness and tasks from Network, "
    "and iterate over no set of ids"
)
# reads the file that `make` stands in, as it is not always a module that can be imported by name
_AGAIN = """
import importlib.util, sys
from hubless.testing.network import network_digest
spec = importlib.util.spec_from_file_location("subject", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["subject"] = module
spec.loader.exec_module(module)
print(network_digest(getattr(module, sys.argv[2])))
"""


async def _same_twice(lab: Lab) -> None:
    """Handled by ``check_network``: it needs two runs."""


NETWORK_CHECKS: dict[str, Callable[[Lab], Awaitable[None]]] = {
    check.__name__: check for check in (*CALLS, *HOSTILE, *SERVICES)
}
SIMULATED_ONLY = (failing_task.__name__, "same_twice")
NETWORK_CHECKS["same_twice"] = _same_twice


def check_network(
    make: Make,
    *,
    simulated: bool = False,
    only: Sequence[str] | None = None,
    network: Callable[[Transport, Identity], Network] = Network,
) -> None:
    """Assert that peers on a transport call, publish, store and survive hostile bytes as all others do.

    make:      an unstarted transport for an identity; called for many, each of which is closed again
    simulated: run on a virtual clock, and assert that two runs are equal; in two processes with other hash seeds where
               ``make`` is a function at the top of a file
    only:      names in ``NETWORK_CHECKS``; without it all of them, in order
    network:   what stands on the transport

    Raises AssertionError with the usual fix, ConfigError for a name that does not exist.
    """
    for name in NETWORK_CHECKS if only is None else only:
        if name not in NETWORK_CHECKS:
            raise ConfigError(f"only = {name!r}: {did_you_mean(name, NETWORK_CHECKS)}")
        if name in SIMULATED_ONLY and not simulated:
            continue
        try:
            if name == "same_twice":
                _check_same(make, network)
            else:
                (run_sim if simulated else asyncio.run)(_run(NETWORK_CHECKS[name], Lab(make, network)))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def network_digest(make: Make, network: Callable[[Transport, Identity], Network] = Network) -> str:
    """A hash over a simulated conversation of eight peers: equal in every run, on every machine."""
    return run_sim(conversation(Lab(make, network)))


async def _run(check: Callable[[Lab], Awaitable[None]], lab: Lab) -> None:
    await check(lab)


def _check_same(make: Make, network: Callable[[Transport, Identity], Network]) -> None:
    first = network_digest(make, network)
    assert first == network_digest(make, network), ALIKE
    if network is not Network or not inspect.isfunction(make) or "<" in make.__qualname__:
        return
    command: list[Any] = [sys.executable, "-c", _AGAIN, Path(inspect.getfile(make)).resolve(), make.__name__]
    for seed in ("1", "2"):
        done = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"a second process could not run the conversation: {done.stderr[-500:]}"
        assert done.stdout.strip() == first, f"{ALIKE} (another process, PYTHONHASHSEED={seed})"
