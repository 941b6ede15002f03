"""Conformance tests for every kind of part: what a part of your own must keep, checked by calling one function.

Each raises AssertionError with the usual fix.

``check_topology``, ``check_mixing``, ``check_faults``: who is connected, and what goes wrong
``check_dataset``, ``check_partition``: what peers learn from
``check_overlay``, ``check_merge``, ``check_codec``, ``check_attack``: what they say to each other
``check_local``, ``check_gradient``, ``check_model``: how they learn
``check_network``: how peers call each other, over any transport
``check_recipe``: a whole method
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubless.testing.data import check_dataset, check_partition, check_split
    from hubless.testing.learn import check_attack, check_codec, check_merge, check_overlay
    from hubless.testing.net import check_faults, check_mixing, check_topology
    from hubless.testing.network import check_network
    from hubless.testing.recipes import check_recipe
    from hubless.testing.training import check_gradient, check_local, check_model

__all__ = [
    "check_attack",
    "check_codec",
    "check_dataset",
    "check_faults",
    "check_gradient",
    "check_local",
    "check_merge",
    "check_mixing",
    "check_model",
    "check_network",
    "check_overlay",
    "check_partition",
    "check_recipe",
    "check_split",
    "check_topology",
]
_HOMES = {
    "data": ("check_dataset", "check_partition", "check_split"),
    "learn": ("check_attack", "check_codec", "check_merge", "check_overlay"),
    "net": ("check_faults", "check_mixing", "check_topology"),
    "network": ("check_network",),
    "recipes": ("check_recipe",),
    "training": ("check_gradient", "check_local", "check_model"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"hubless.testing.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
