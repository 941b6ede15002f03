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


def restored(m: Message, parts: tuple[str, ...], build: Callable[[str, list[Tensor]], Tensor]) -> Message:
    """The inverse: ``build`` makes a tensor of its parts. Raises CodecError when a part of one is missing."""
    new: Message = {}
    done: set[str] = set()
    for name, value in m.items():
        stem, _, what = name.rpartition("/")
        if not stem or what not in parts:
            new[name] = value
        elif stem not in done:
            done.add(stem)
            if missing := [part for part in parts if f"{stem}/{part}" not in m]:
                raise CodecError(f"{stem}: no {missing[0]}")
            if stem in m:
                raise CodecError(f"{stem} comes twice")
            new[stem] = build(stem, [m[f"{stem}/{part}"] for part in parts])
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
