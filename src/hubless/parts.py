"""Named parts: one line of text to one object.

A part is a class or function registered under a kind and a name. Its typed signature is its schema,
so ``"dirichlet:0.3"`` or ``"small-world:k=4:rewire=0.1"`` becomes a checked call, and a wrong name or
value becomes an error that says what is allowed. Kinds live in the modules of ``HOMES``, imported when
first asked for; packages add parts through the entry point group ``hubless.parts``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import ValidationError, validate_call

from hubless.errors import ConfigError, did_you_mean

HOMES: dict[str, tuple[str, ...]] = {
    "topology": ("hubless.net.topologies",),
    "weights": ("hubless.net.mixing", "hubless.net.matrix"),
    "data": ("hubless.data.sets",),
    "partition": ("hubless.data.partitions",),
    "model": (
        "hubless.models.zoo",
        "hubless.models.huggingface",
        "hubless.models.moe",
        "hubless.models.resnet",
        "hubless.models.vit",
    ),
    "mask": ("hubless.learn.masks",),
    "overlay": ("hubless.learn.overlays",),
    "merge": (
        "hubless.learn.merges",
        "hubless.learn.server",
        "hubless.learn.sybilwall",
        "hubless.learn.bristle",
        "hubless.learn.matching.merge",
    ),
    "attack": ("hubless.learn.attacks",),
    "codec": ("hubless.learn.codecs", "hubless.learn.privacy", "hubless.learn.secure"),
    "privacy": ("hubless.learn.privacy",),
    "gradient": ("hubless.learn.gradients",),
    "rule": ("hubless.merging",),
}

Factory = TypeVar("Factory", bound=Callable[..., Any])
_registry: dict[str, dict[str, Callable[..., Any]]] = {}
_joiners: dict[str, Callable[..., Any]] = {}


def part(kind: str, name: str) -> Callable[[Factory], Factory]:
    """Register a class or function as the part ``name`` of ``kind``."""

    def register(factory: Factory) -> Factory:
        known = _registry.setdefault(kind, {})
        if name in known and known[name].__qualname__ != factory.__qualname__:
            raise ConfigError(f"{kind}: the name {name!r} is taken by {known[name].__qualname__}")
        known[name] = factory
        return factory

    return register


def joins(kind: str) -> Callable[[Factory], Factory]:
    """Register the function that makes one part of several of a kind, written ``a:1+b:2``."""

    def register(factory: Factory) -> Factory:
        _joiners[kind] = factory
        return factory

    return register


@cache
def _load(kind: str) -> None:
    if kind not in HOMES:
        raise ConfigError(f"unknown kind of part {kind!r}; {did_you_mean(kind, HOMES)}")
    for module in HOMES[kind]:
        importlib.import_module(module)
    for entry in entry_points(group="hubless.parts"):
        entry.load()


def parts(kind: str) -> dict[str, Callable[..., Any]]:
    """Every registered part of a kind, by name."""
    _load(kind)
    return dict(sorted(_registry.get(kind, {}).items()))


def make(kind: str, spec: Any, *, where: str = "") -> Any:
    """The part that ``spec`` describes; anything but text is taken to be the part itself.

    ``spec`` is ``name``, ``name:value:value`` or ``name:key=value``, and for kinds that can be joined (codecs) several
    of them with ``+`` in between; ``where`` names the option in errors.
    Raises ConfigError for an unknown name, a wrong value or a wrong number of values.
    """
    if not isinstance(spec, str):
        return spec
    where = where or kind
    name, *values = spec.split(":")
    known = parts(kind)
    if "+" in spec and kind in _joiners:
        return _joiners[kind](*(make(kind, one, where=where) for one in spec.split("+")))
    if name not in known:
        raise ConfigError(f"{where}: unknown {kind} {name!r}; {did_you_mean(name, known)}")
    factory = known[name]
    positional = [value for value in values if "=" not in value]
    keyed = dict(value.split("=", 1) for value in values if "=" in value)
    return _call(factory, positional, keyed, f"{where}: {spec!r}")


def _call(factory: Callable[..., Any], positional: list[str], keyed: dict[str, str], where: str) -> Any:
    signature = inspect.signature(factory)
    try:
        bound = signature.bind(*positional, **keyed)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; it takes {usage(factory)}") from None
    try:
        if all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in signature.parameters.values()):
            return _checked(factory)(**bound.arguments)  # by name, so that a complaint names the value
        return _checked(factory)(*bound.args, **bound.kwargs)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}; it takes {usage(factory)}") from None


def _checked(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The factory with its values checked; pydantic checks functions only, so a class is checked at its __init__."""
    if not isinstance(factory, type):
        return validate_call(factory)
    kind: Any = factory

    def build(*args: Any, **kwargs: Any) -> Any:
        instance = kind.__new__(kind)
        validate_call(kind.__init__)(instance, *args, **kwargs)
        return instance

    return build


def usage(factory: Callable[..., Any]) -> str:
    """The values a part takes, as a person would type them."""
    parameters = inspect.signature(factory).parameters.values()
    words = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters if p.kind != p.VAR_KEYWORD]
    return ":".join(words) or "no values"


def explain(error: ValidationError) -> str:
    """pydantic's complaint in one line: what, which value, what is allowed."""
    lines = []
    for item in error.errors():
        place = ".".join(str(step) for step in item["loc"])
        said = str(item.get("ctx", {}).get("error") or item["msg"])
        said = said.replace("Input should be", "must be", 1).removeprefix("Value error, ")
        lines.append(f"{place} = {item['input']!r} {said}" if place else said)
    return "; ".join(lines)
