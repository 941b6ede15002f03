"""Whether anything would leave a peer beside what its noise covers."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from hubless.errors import ConfigError
from hubless.learn.model import Model
from hubless.learn.slots import Merge, Packer, Reduce, Stage
from hubless.parts import make

if TYPE_CHECKING:
    from hubless.learn.learning import Learning

BASES = (*Merge.__mro__, *Reduce.__mro__, Stage, Packer)
OWN = {"data", "held", "classes", "own", "apart"}  # what a context knows of a peer's samples


def merge_of(learning: Learning) -> Merge:
    """The method's merge, made from its name or wrapped round a reduce."""
    merge: Merge | Reduce = make("merge", learning.merge)
    return Merge(merge) if isinstance(merge, Reduce) else merge


def networks(learning: Learning) -> list[Model]:
    """The peers' networks, one a cohort."""
    return [learning.workload.network()] if learning.models is None else [model for model, _ in learning.models]


def covered(learning: Learning, where: str) -> None:
    """Raise ConfigError when a peer tells what it made of its own data outside of training, where no noise is added.

    where: the name of the privacy, for the error
    """
    merge, codec = merge_of(learning), make("codec", learning.codec)
    for part in (merge, merge.reduce, *codec.stages):
        if _reads_data(part):
            raise ConfigError(
                f"privacy: {type(part).__name__} makes what a peer sends of the peer's own data, which the noise of"
                f" {where} does not cover; use another merge or codec"
            )
    if learning.overlay.reports:
        raise ConfigError(
            f"privacy: {type(learning.overlay).__name__} has peers report {learning.overlay.reports[0]!r}, which the"
            f" noise of {where} does not cover; use another overlay"
        )


def statistics(learning: Learning, where: str) -> None:
    """Raise ConfigError when buffers, which training changes, travel with the model."""
    for model in networks(learning):
        told = [name for name, value in model.buffers.items() if value.is_floating_point()]
        if told and merge_of(learning).share is None:
            raise ConfigError(
                f"model: {model.name} sends {told[0]!r}, which the noise of {where} does not cover; use GroupNorm in"
                " place of BatchNorm, or a merge that shares groups of parameters only"
            )


def _reads_data(part: Any) -> bool:
    """Whether a part asks its ``ctx`` for samples or classes: read from its code, for a flag might say otherwise."""
    classes = [kind for kind in type(part).__mro__ if kind not in BASES]
    waiting = [value for kind in classes for value in vars(kind).values() if isinstance(value, FunctionType)]
    seen: set[FunctionType] = set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        for code in _codes(function.__code__):
            if any(_known(code)):
                return True
            called = [function.__globals__.get(name) for name in code.co_names]
            waiting += [one for one in called if isinstance(one, FunctionType) and one not in seen]
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _known(code: CodeType) -> Iterator[bool]:
    """For every attribute that the code takes: whether it is ``ctx.data`` or the like."""
    before = ""
    for step in dis.get_instructions(code):
        if step.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            yield before == "ctx" and step.argval in OWN
        before = step.argrepr.split(", ")[-1]  # some versions of Python load two names at once
