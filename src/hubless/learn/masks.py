"""Masks over parameters, by name: what of a network is trained, and what of it stays with its peer.

A mask is a function from a module to the names of some of its parameters. Masks are parts, joined with ``+``:
``bias+head``. They say what they mean for any module, so they can be asked of every method.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from torch import nn

from hubless.errors import ConfigError
from hubless.parts import joins, make, part

Mask = Callable[[nn.Module], frozenset[str]]
HEADS = {"head", "heads", "classifier", "score", "lm_head", "output_layer"}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def _names(module: nn.Module) -> Iterable[str]:
    return (name for name, _ in module.named_parameters())


def _containing(word: str) -> Mask:
    return lambda module: frozenset(name for name in _names(module) if word in name)


@joins("mask")
def union(*masks: Mask) -> Mask:
    """What at least one of the masks names."""
    return lambda module: frozenset[str]().union(*(mask(module) for mask in masks))


@part("mask", "all")
def everything() -> Mask:
    """Every parameter."""
    return lambda module: frozenset(_names(module))


@part("mask", "none")
def nothing() -> Mask:
    """No parameter."""
    return lambda module: frozenset()


@part("mask", "head")
def head() -> Mask:
    """The output layer: modules called head, classifier, score or lm_head; without one, the last layer there is."""

    def named(module: nn.Module) -> frozenset[str]:
        names = list(_names(module))
        called = [name for name in names if HEADS & set(name.split("."))]
        owner = names[-1].rpartition(".")[0] if names else ""
        return frozenset(called or [name for name in names if name.rpartition(".")[0] == owner])

    return named


@part("mask", "body")
def body() -> Mask:
    """Everything but the head."""
    return lambda module: frozenset(_names(module)) - head()(module)


@part("mask", "bias")
def bias() -> Mask:
    """Bias vectors, those of normalisation layers with them."""
    return lambda module: frozenset(n for n in _names(module) if re.search(r"(^|_)bias$", n.rpartition(".")[2]))


@part("mask", "norm")
def norm() -> Mask:
    """Normalisation layers: scales and biases of LayerNorm, RMSNorm, GroupNorm, BatchNorm."""

    def named(module: nn.Module) -> frozenset[str]:
        owners = [
            f"{name}." for name, part_ in module.named_modules()
            if isinstance(part_, NORMS) or type(part_).__name__.endswith("RMSNorm")
        ]  # fmt: skip
        return frozenset(name for name in _names(module) for owner in owners if name.startswith(owner))

    return named


@part("mask", "adapter")
def adapter() -> Mask:
    """Parameters whose name contains ``adapter``: bottlenecks put into a frozen network."""
    return _containing("adapter")


@part("mask", "prompt")
def prompt() -> Mask:
    """Parameters whose name contains ``prompt``: tokens put before a frozen network's input."""
    return _containing("prompt")


@part("mask", "lora")
def lora() -> Mask:
    """Parameters whose name contains ``lora``: low-rank updates of frozen matrices."""
    return _containing("lora")


@part("mask", "names")
def names(pattern: str) -> Mask:
    """Parameters whose name fits a pattern with ``*``: ``names:blocks.0.*``."""
    return lambda module: frozenset(name for name in _names(module) if fnmatchcase(name, pattern))


def chosen(mask: Mask, module: nn.Module, where: str) -> frozenset[str]:
    """The names that a mask means; raises ConfigError for names that the module does not have, or none at all."""
    every, found = list(_names(module)), mask(module)
    if strange := sorted(found - set(every)):
        raise ConfigError(f"{where}: {strange[0]} is no parameter of the model, which has {', '.join(every[:4])}, ...")
    if not found:
        raise ConfigError(f"{where}: means no parameter of the model, which has {', '.join(every[:4])}, ...")
    return found


def masks(trainable: Mask | str, personal: Mask | str) -> tuple[Mask | None, Mask | None]:
    """The two masks of a network from their texts; None for an empty text, ``all`` trainable and ``none`` personal."""
    first = None if trainable in ("", "all") else make("mask", trainable, where="trainable")
    return first, None if personal in ("", "none") else make("mask", personal, where="personal")
