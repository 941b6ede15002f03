"""Whether anything would leave a peer beside what its noise covers."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from hubless.errors import ConfigError
from hubless.learn.model import Model
from hubless.learn.slots import Merge, Reduce
from hubless.parts import make

if TYPE_CHECKING:
    from hubless.learn.learning import Learning


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
    merge = merge_of(learning)
    for part in (merge, merge.reduce):
        if _reads_data(part):
            raise ConfigError(
                f"privacy: {type(part).__name__} makes what it sends on of the peer's own data, which the noise of"
                f" {where} does not cover; use another merge"
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
    """Whether a part's own code asks for ``ctx.data``: read from the code, for a flag might say otherwise."""
    classes = [kind for kind in type(part).__mro__ if kind not in Merge.__mro__ and kind not in Reduce.__mro__]
    functions = [value for kind in classes for value in vars(kind).values() if hasattr(value, "__code__")]
    return any({"data", "own"} & {*names} for function in functions for names in _names(function.__code__))


def _names(code: CodeType) -> Iterator[tuple[str, ...]]:
    """Attributes and globals that a function uses, and those of functions inside it."""
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
