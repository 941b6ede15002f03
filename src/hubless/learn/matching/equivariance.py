"""What each operation of a network asks of the axes that it works on, so that permuted inputs give permuted outputs.

A rule takes a ``Call`` and gives the axes of the result. It ties axes together (``call.same``), and refuses what has
no such symmetry while something there may move (``call.needs_still``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, fx, nn

from hubless.errors import ConfigError
from hubless.learn.matching.units import Axes, Row, Units, fixed, is_fixed, length, stretched


class Walk(Protocol):
    """Where the rules find what is known so far."""

    units: Units

    def axes_of(self, arg: Any) -> Axes:
        """The axes of an argument."""

    def parameter(self, value: Tensor) -> Axes:
        """The axes of a parameter or buffer."""

    def unknown(self, n: fx.Node, why: str) -> ConfigError:
        """The error that names an operation."""


class Call:
    """One operation of the graph: its arguments, and the value that it gave."""

    def __init__(self, walk: Walk, node: fx.Node, value: Tensor, layer: nn.Module | None = None) -> None:
        self.walk, self.node, self.value = walk, node, value
        self._layer = layer

    @property
    def layer(self) -> Any:
        """The module, where the operation is one."""
        return self._layer

    def arg(self, at: int, name: str, default: Any = None) -> Any:
        """An argument, by place or name."""
        return self.node.args[at] if at < len(self.node.args) else self.node.kwargs.get(name, default)

    @property
    def input(self) -> Axes:
        """The axes of the first argument."""
        return self.axes(self.node.all_input_nodes[0])

    def axes(self, arg: Any) -> Axes:
        """The axes of an argument, with all that is known put in."""
        return tuple(map(self.walk.units.resolve, self.walk.axes_of(arg)))

    def weight(self, name: str) -> Axes | None:
        """The axes of a parameter or buffer of the module; None where it has none."""
        value = getattr(self._layer, name, None)
        return None if value is None else self.walk.parameter(value)

    def same(self, a: Row, b: Row) -> Row:
        """Two axes follow the same permutations; gives what they are now."""
        if length(a) != length(b):
            raise self.walk.unknown(self.node, f"puts axes of {length(a)} and {length(b)} entries together")
        return self.walk.units.unify(a, b)

    def needs_still(self, *rows: Row, why: str) -> None:
        """Raise ConfigError where one of these axes holds what may move."""
        if not all(is_fixed(self.walk.units.resolve(row)) for row in rows):
            raise self.walk.unknown(self.node, why)


Rule = Callable[[Call], Axes]


def alike(call: Call) -> Axes:
    """Element by element, or along an axis in a way that asks for no order (softmax): as they were."""
    return call.input


def together(call: Call) -> Axes:
    """Element by element on several values, which are broadcast."""
    found: Axes = ()
    for axes in (call.axes(node) for node in call.node.all_input_nodes):
        found = tuple(
            b if length(a) == 1 else a if length(b) == 1 else call.same(a, b)
            for a, b in zip(_padded(found, len(axes)), _padded(axes, len(found)), strict=True)
        )
    return found


def _padded(axes: Axes, count: int) -> Axes:
    return (fixed(1),) * (count - len(axes)) + axes


def linear(call: Call) -> Axes:
    """``x W' + b``: the columns of W follow the input, the output follows its rows."""
    if call.layer is not None:
        weight, bias = call.weight("weight"), call.weight("bias")
    else:
        bias_node = call.arg(2, "bias")
        weight, bias = call.axes(call.arg(1, "weight")), None if bias_node is None else call.axes(bias_node)
    assert weight is not None
    call.same(call.input[-1], weight[1])
    rows = weight[0] if bias is None else call.same(weight[0], bias[0])
    return (*call.input[:-1], rows)


def product(call: Call) -> Axes:
    """``a @ b``: the last axis of a follows the second to last of b."""
    a, b = call.axes(call.arg(0, "input")), call.axes(call.arg(1, "other"))
    if min(len(a), len(b)) < 2:
        raise call.walk.unknown(call.node, "is known for matrices only")
    call.same(a[-1], b[-2])
    size = max(len(a), len(b)) - 2
    lead = tuple(
        t if length(s) == 1 else s if length(t) == 1 else call.same(s, t)
        for s, t in zip(_padded(a[:-2], size), _padded(b[:-2], size), strict=True)
    )
    return (*lead, a[-2], b[-1])


def convolution(call: Call) -> Axes:
    """Channels in and out; a depthwise one makes its output channels of the input's, in order."""
    layer, weight, bias = call.layer, call.weight("weight"), call.weight("bias")
    assert weight is not None
    turned = layer.transposed
    heard, made = (weight[0], weight[1]) if turned else (weight[1], weight[0])
    if layer.groups == 1:
        call.same(call.input[1], heard)
    elif layer.groups == layer.in_channels and not turned:
        call.same(stretched(call.input[1], layer.out_channels // layer.in_channels), made)
    else:
        call.needs_still(call.input[1], why=f"has {layer.groups} groups of channels that may not mix")
        for row in weight:
            call.walk.units.pin(row)
    for row in (*weight[2:], *call.input[2:]):
        call.walk.units.pin(row)
    rows = made if bias is None else call.same(made, bias[0])
    if turned and layer.groups > 1:
        rows = fixed(call.value.shape[1])
    return (call.input[0], rows, *map(fixed, call.value.shape[2:]))


def channel_norm(call: Call) -> Axes:
    """A scale, a bias and statistics for each channel."""
    row = call.input[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if (axes := call.weight(name)) is not None:
            row = call.same(row, axes[0])
    return (call.input[0], row, *call.input[2:])


def prelu(call: Call) -> Axes:
    """A slope for each channel, or one for all."""
    return alike(call) if call.layer.num_parameters == 1 else channel_norm(call)


def group_norm(call: Call) -> Axes:
    """Over all channels at once, or each by itself; groups in between may not mix."""
    if call.layer.num_groups not in (1, call.layer.num_channels):
        call.needs_still(call.input[1], why=f"has {call.layer.num_groups} groups of channels that may not mix")
    return channel_norm(call)


def layer_norm(call: Call) -> Axes:
    """Over the last axes, in any order; a scale and a bias for each entry."""
    axes = list(call.input)
    for name in ("weight", "bias"):
        for at, row in enumerate(reversed(call.weight(name) or ())):
            axes[-1 - at] = call.same(axes[-1 - at], row)
    return tuple(axes)


def embedding(call: Call) -> Axes:
    """A row of the table for each index."""
    table = call.weight("weight")
    assert table is not None
    call.walk.units.pin(table[0])
    return (*call.input, table[1])


def pooling(call: Call) -> Axes:
    """Places change, channels do not."""
    call.needs_still(*call.input[2:], why="pools over an axis whose units may move")
    return (*call.input[:2], *map(fixed, call.value.shape[2:]))
