"""Permutations of hidden units that leave what a network computes as it is, and how to write them down.

A unit of a hidden layer may change places with another if all that makes it and all that reads it follows: rows of one
weight matrix, its bias, scales and statistics of a normalisation, columns of the next matrix. Units that a residual
connection adds up must move together. A ``Spec`` names the permutations of a network and says, for each axis of each
tensor, which of them it follows. ``hubless.learn.matching.symmetries`` derives one from a module.

By hand it is a table, with an entry for each axis of each tensor: ``None`` for what stays, a name for what follows
that permutation, ``name*49`` where every unit stands for 49 neighbouring entries (the pixels of a channel, flattened),
and several joined with ``+`` where an axis is put together; ``_*4`` are four entries that stay.

    {"0.weight": ["a", None], "0.bias": ["a"], "2.weight": [None, "a"], "2.bias": [None]}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.model import BUFFER

if TYPE_CHECKING:
    from hubless.learn.model import Model

FIXED = "_"
CLOSE = 1e-3  # of the largest output: what rounding may change when sums run in another order
Assignment = dict[str, Tensor]  # permutation -> which unit comes to each place ``[units]``


class Piece(NamedTuple):
    """Neighbouring entries of an axis: ``units`` of a permutation, each standing for ``repeat`` entries; or fixed."""

    name: str
    units: int
    repeat: int = 1

    @property
    def length(self) -> int:
        """Entries."""
        return self.units * self.repeat


class Block(NamedTuple):
    """Where the units of a permutation lie in a tensor: from entry ``start`` of axis ``axis`` on."""

    tensor: str
    axis: int
    start: int
    piece: Piece

    def units(self, value: Tensor) -> Tensor:
        """The entries of such a tensor by unit ``[units, ...]``."""
        inside = value.narrow(self.axis, self.start, self.piece.length).movedim(self.axis, 0)
        return inside.reshape(self.piece.units, -1)


Axis = tuple[Piece, ...]


@dataclass(frozen=True)
class Spec:
    """The permutations of a network.

    axes: tensor (a parameter or buffer of the module, by name) -> the pieces of each of its axes
    """

    axes: Mapping[str, tuple[Axis, ...]]

    @staticmethod
    def of(table: Mapping[str, Sequence[str | None]], model: Model) -> Spec:
        """A table by hand, checked against a network: every tensor named, every axis as long as it is.

        Raises ConfigError for a tensor that is missing, unknown or has other axes, and for one permutation with two
        numbers of units.
        """
        shapes = {name: tuple(value.shape) for name, value in tensors_of(model, model.start(0), model.state()).items()}
        if unknown := sorted(set(table) - set(shapes) - set(model.frozen)):
            raise ConfigError(f"spec: {model.name} has no tensor {unknown[0]!r}; it has {', '.join(shapes)}")
        for name, shape in shapes.items():
            if shape and name not in table:  # a counter has no axes
                raise ConfigError(f"spec: {name} {shape} is missing; give an entry for each axis, None where it stays")
            if shape and len(table[name]) != len(shape):
                raise ConfigError(f"spec: {name} has {len(shape)} axes {shape}, not {len(table[name])}")
        written = {
            (name, at): (_parts(text, f"{name}, axis {at}"), shape[at])
            for name, shape in shapes.items()
            for at, text in enumerate(table[name] if shape else ())
        }
        sizes = _sizes(list(written.values()))
        found = {at: _pieces(parts, length, f"{at[0]}, axis {at[1]}", sizes) for at, (parts, length) in written.items()}
        return Spec({name: tuple(found[name, at] for at in range(len(shape))) for name, shape in shapes.items()})

    @staticmethod
    def read(path: str | Path, model: Model) -> Spec:
        """A table by hand from a JSON file. Raises ConfigError for one that cannot be read or does not fit."""
        try:
            table = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"spec = {str(path)!r}: cannot be read as JSON: {error}") from None
        if not isinstance(table, dict) or not all(isinstance(entry, list) for entry in table.values()):
            raise ConfigError(f"spec = {str(path)!r}: must be a table of tensor names, each with a list of its axes")
        return Spec.of(table, model)

    @property
    def table(self) -> dict[str, list[str | None]]:
        """As one would write it by hand."""
        return {name: [_text(axis) for axis in axes] for name, axes in self.axes.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Units of each permutation, in the order in which the tensors name them."""
        return {block.piece.name: block.piece.units for block in self.blocks()}

    def blocks(self, name: str | None = None) -> Iterator[Block]:
        """Everywhere that units of a permutation, or of any, lie."""
        for tensor, axes in self.axes.items():
            for at, axis in enumerate(axes):
                start = 0
                for piece in axis:
                    if piece.name != FIXED and name in (None, piece.name):
                        yield Block(tensor, at, start, piece)
                    start += piece.length

    def permuted(self, tensors: Mapping[str, Tensor], by: Assignment, *, but: str = "") -> dict[str, Tensor]:
        """The tensors of a network with their units moved, all but those of one permutation."""
        return {name: self.moved(name, value, by, but=but) for name, value in tensors.items()}

    def moved(self, name: str, value: Tensor, by: Assignment, *, but: str = "") -> Tensor:
        """One tensor with its units moved; entry i of an axis becomes the entry that the assignment says."""
        for at, axis in enumerate(self.axes.get(name, ())):
            if any(piece.name in by and piece.name != but for piece in axis):
                value = value.index_select(at, _order(axis, by, but).to(value.device))
        return value

    def check(self, model: Model, x: Tensor) -> None:
        """Raise ConfigError when some permutation changes what the network computes on ``x [B, ...]``.

        Tried with random parameters and statistics, as fresh ones (zeros, ones) would hide mistakes.
        """
        w = model.start(0)
        w = w + 0.1 * keys.normal(keys.fold(0, "spec"), (len(w),))
        s = {name: _lively(name, value) for name, value in model.state().items()}
        tensors = tensors_of(model, w, s)
        with torch.no_grad():
            before = model.forward(w, x, s)
            for name, units in self.sizes.items():
                cycle = keys.permutation(keys.fold(0, "permutation", name), units)
                order = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))  # so that no unit stays
                row, state = row_of(model, self.permuted(tensors, {name: order}), s)
                gap = (model.forward(row, x, state) - before).abs().max()
                if float(gap) > CLOSE * float(before.abs().max()):
                    raise ConfigError(
                        f"spec: {model.name} computes something else when the {units} units of {name!r} change places:"
                        " an axis of what makes or reads them is missing or wrong"
                    )


def tensors_of(model: Model, w: Tensor, s: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of a row ``[D]`` and buffers of a state, by the names that the module gives them."""
    return {**model.unflatten(w), **{name.removeprefix(BUFFER): s[name] for name in model.buffers if name in s}}


def row_of(model: Model, tensors: Mapping[str, Tensor], s: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The inverse: a row ``[D]``, and the state with these buffers."""
    w = torch.cat([tensors[name].reshape(-1) for name in model.names])
    return w, {**s, **{name: tensors[name.removeprefix(BUFFER)] for name in model.buffers if name in s}}


Parts = list[tuple[str, int]]  # names with how often they are repeated


def _parts(text: str | None, where: str) -> Parts:
    """What is written for an axis; nothing where it stays."""
    if text is None:
        return []
    split = [part.partition("*") for part in text.split("+")]
    if not all(name and (times.isdecimal() and int(times) if star else True) for name, star, times in split):
        raise ConfigError(f"spec: {where} = {text!r}: must be None, NAME, NAME*TIMES, or several joined with +")
    return [(name, int(times or 1)) for name, _, times in split]


def _sizes(axes: list[tuple[Parts, int]]) -> dict[str, int]:
    """Units of each permutation, from the axes on which all others are known."""
    sizes: dict[str, int] = {FIXED: 1}
    while True:
        before = len(sizes)
        for parts, length in axes:
            unknown = {name for name, _ in parts if name not in sizes}
            if len(unknown) == 1:
                (name,) = unknown
                left = length - sum(times * sizes[other] for other, times in parts if other != name)
                sizes[name] = max(0, left) // sum(times for other, times in parts if other == name)
        if len(sizes) == before:
            return sizes


def _pieces(parts: Parts, length: int, where: str, sizes: Mapping[str, int]) -> Axis:
    if not parts:
        return (Piece(FIXED, length),)
    for name, _ in parts:
        if name not in sizes:
            raise ConfigError(
                f"spec: {where}: nothing says how many units {name!r} has; name them on an axis of their own"
            )
    total = sum(times * sizes[name] for name, times in parts)
    if total != length:
        raise ConfigError(f"spec: {where}: its parts make {total} entries, but the axis has {length}")
    return tuple(Piece(FIXED, times) if name == FIXED else Piece(name, sizes[name], times) for name, times in parts)


def _text(axis: Axis) -> str | None:
    if all(piece.name == FIXED for piece in axis):
        return None
    words = []
    for name, units, repeat in axis:
        times = units if name == FIXED else repeat
        words.append(name if times == 1 and name != FIXED else f"{name}*{times}")
    return "+".join(words)


def _order(axis: Axis, by: Assignment, but: str) -> Tensor:
    """Where each entry of an axis comes from ``[length]``."""
    parts, start = [], 0
    for name, units, repeat in axis:
        here = torch.arange(units) if name == but or name not in by else by[name].cpu()
        parts.append(start + (here[:, None] * repeat + torch.arange(repeat)).reshape(-1))
        start += units * repeat
    return torch.cat(parts)


def _lively(name: str, value: Tensor) -> Tensor:
    """Random statistics: positive, so that they can be variances."""
    return 0.5 + keys.uniform(keys.fold(0, name), tuple(value.shape)) if value.is_floating_point() else value
