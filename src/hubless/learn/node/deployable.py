"""Which runs can be deployed: what would need to see more than one peer does is refused, with what to change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hubless import __version__
from hubless.errors import ConfigError
from hubless.learn.learning import Run
from hubless.learn.node.group import Rules
from hubless.learn.privacy import Privacy
from hubless.learn.shards import splittable
from hubless.parts import make

OWN = ("threads", "memory", "device", "backend", "workers")  # options that may differ from node to node


def deployable(experiment: Any, name: str) -> Run:
    """The run, when peers in processes of their own can carry it out. Raises ConfigError naming what cannot."""
    if not isinstance(experiment, Run):
        raise ConfigError(f"{name}: does not learn in rounds; only recipes that do can be deployed")
    run = experiment
    if run.schedule:
        raise ConfigError(
            f"faults = {run.schedule!r}: a deployed peer lives with what its network does; leave it out, and try"
            " --kill, --late or --cut"
        )
    if run.setting.backend != "in-process":
        raise ConfigError(f"backend = {run.setting.backend!r}: a node is one process; leave it out")
    noisy = any(stage.mechanism() is not None for stage in run.codec.stages)
    if noisy or type(make("privacy", run.asked.privacy)) is not Privacy:
        raise ConfigError("privacy: its noise follows from the seed, which every peer of a deployment knows; use none")
    for held in places(run):
        splittable(run, held, remote=True)
    return run


def together(run: Run) -> frozenset[int]:
    """Peers that one process may hold: the identities of one attacker, if there is one."""
    joint = run.attack is not None and run.attack.joint
    return run.hostile if joint else frozenset()


def places(run: Run) -> list[tuple[int, ...]]:
    """The peers of each process of a whole deployment."""
    as_one = together(run)
    alone: list[tuple[int, ...]] = [(peer,) for peer in range(run.n) if peer not in as_one]
    return alone + ([tuple(sorted(as_one))] if as_one else [])


def agreement(recipe: str, options: Mapping[str, Any]) -> str:
    """What nodes of one group have in common: a digest of recipe, options and version."""
    shared = {name: value for name, value in options.items() if name not in OWN}
    text = json.dumps([recipe, __version__, shared], sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def rules(run: Run, digest: str, watchers: frozenset[str] = frozenset()) -> Rules:
    """What nodes of this run ask of each other."""
    return Rules(digest, run.n, together(run), watchers)
