"""Rules (see ``equivariance``) of operations without weights that move, join, cut or take away axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hubless.learn.matching.equivariance import Call
from hubless.learn.matching.units import Axes, Row, fixed, is_fixed, length, stretched


def reduction(call: Call) -> Axes:
    """Axes that a mean or a sum takes away may be in any order."""
    kept = [i % len(call.input) for i in _several(call.arg(1, "dim"))] or list(range(len(call.input)))
    if call.arg(2, "keepdim", False):
        return tuple(fixed(1) if i in kept else row for i, row in enumerate(call.input))
    return tuple(row for i, row in enumerate(call.input) if i not in kept)


def _several(dims: Any) -> Sequence[int]:
    return () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)


def turned(call: Call) -> Axes:
    """Axes change places: transpose, permute."""
    order, given = list(range(len(call.input))), call.node.args[1:]
    if call.node.kwargs:
        raise call.walk.unknown(call.node, "is known with its axes in order only")
    axes: list[Any] = list(given[0]) if given and isinstance(given[0], (tuple, list)) else list(given)
    if "transpose" in str(call.node.target) or "transpose" in getattr(call.node.target, "__name__", ""):
        a, b = (i % len(order) for i in axes)
        order[a], order[b] = b, a
    else:
        order = [i % len(order) for i in axes]
    return tuple(call.input[i] for i in order)


def joined(call: Call) -> Axes:
    """Several values side by side along one axis (cat)."""
    parts = [call.axes(node) for node in call.arg(0, "tensors")]
    at = call.arg(1, "dim", 0) % len(parts[0])
    rows = list(parts[0])
    for axes in parts[1:]:
        rows = [(*a, *b) if i == at else call.same(a, b) for i, (a, b) in enumerate(zip(rows, axes, strict=True))]
    return tuple(rows)


def reshaped(call: Call) -> Axes:
    """Neighbouring axes become one, or an axis that stays becomes several: flatten, view, reshape, squeeze."""
    found: list[Row] = []
    rows, sizes = list(call.input), list(call.value.shape)
    while rows or sizes:
        taken, made = [rows.pop(0)] if rows else [fixed(1)], [sizes.pop(0)] if sizes else [1]
        while (have := prod(map(length, taken))) != (want := prod(made)):
            if have < want:
                taken.append(rows.pop(0))
            else:
                made.append(sizes.pop(0))
        row = _flat(call, taken)
        if len([size for size in made if size > 1]) > 1:
            call.needs_still(row, why="takes an axis apart whose units may move")
            found += map(fixed, made)
        else:
            found += [row if size > 1 else fixed(1) for size in made]
    return tuple(found[: call.value.dim()])


def _flat(call: Call, rows: Sequence[Row]) -> Row:
    """Axes as one, the last running fastest."""
    flat, *rest = [row for row in rows if length(row) > 1] or [fixed(1)]
    for row in rest:
        if is_fixed(row):
            flat = stretched(flat, length(row))
        elif is_fixed(flat):
            flat = row * length(flat)
        else:
            raise call.walk.unknown(call.node, "flattens two axes whose units may move into one")
    return flat
