"""What a stage makes of a tensor goes by ``NAME/WHAT``, so that stages can follow each other in any order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hubless.errors import CodecError
from hubless.learn.context import Context, Message


def of_row(name: str, ctx: Context) -> bool:
    """Whether a tensor holds parameters (a group of the model, or what stages made of it), not a fact beside them."""
    groups = ctx.model.groups
    return name in groups or any(name.startswith(f"{group}/") for group in groups)


def replaced(m: Message, change: Callable[[str, Tensor], Mapping[str, Tensor] | None]) -> Message:
    """The message with tensors replaced by what ``change`` makes of them, by WHAT; None leaves one as it is."""
    new: Message = {}
    for name, value in m.items():
        made = change(name, value)
        new |= {name: value} if made is None else {f"{name}/{what}": part for what, part in made.items()}
    return new


def restored(m: Message, parts: tuple[str, ...], build: Callable[[str, list[Tensor]], Tensor | None]) -> Message:
    """The inverse: ``build`` makes a tensor of its parts; where it gives None, they are left as they are.

    So are parts of which others are missing: an earlier stage of the same kind made them, and a later one coded those.
    Raises CodecError when a tensor is there already.
    """
    new: Message = {}
    done: set[str] = set()
    for name, value in m.items():
        stem, _, what = name.rpartition("/")
        if name in done:
            continue
        made = None
        if stem and what in parts and all(f"{stem}/{part}" in m for part in parts):
            made = build(stem, [m[f"{stem}/{part}"] for part in parts])
        if made is None:
            new[name] = value
            continue
        if stem in m:
            raise CodecError(f"{stem} comes twice")
        done |= {f"{stem}/{part}" for part in parts}
        new[stem] = made
    return new


def numbers(value: Tensor) -> bool:
    """Whether a stage may make a tensor coarser; float64 is for facts that need all their digits."""
    return value.is_floating_point() and value.dtype != torch.float64


def parameters(name: str, value: Tensor, ctx: Context) -> bool:
    """Whether a tensor holds numbers for the parameters, of which most may be left out: no statistics, no facts."""
    return numbers(value) and (of_row(name, ctx) or value.shape == (ctx.model.size,))


def finite(name: str, value: Tensor) -> Tensor:
    """The tensor. Raises CodecError when a number of it is not finite."""
    if not bool(torch.isfinite(value).all()):
        raise CodecError(f"{name} is not finite")
    return value
