"""A module's forward as a list of plain layers, where it is made of layers that kernels know."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 (its name in the field)

from hubless.learn.gate import GATE
from hubless.learn.model import Dropout, Model


@dataclass(frozen=True)
class Layer:
    """One operation.

    op:      what it is, such as ``linear`` or ``pool``
    inputs:  numbers of the layers whose outputs it takes; -1 is the network's input
    name:    of its module, and so the prefix of its parameters; empty for a function
    module:  its module, for its settings
    apply:   for pools, the function of one tensor
    """

    op: str
    inputs: tuple[int, ...]
    name: str = ""
    module: nn.Module | None = None
    apply: Callable[[Any], Any] | None = None


MODULES: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv2d: "conv",
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.GELU: "gelu",
    nn.Identity: "identity",
    nn.Flatten: "flatten",
    nn.MaxPool2d: "maxpool",
    nn.AvgPool2d: "pool",
    nn.AdaptiveAvgPool2d: "pool",
    nn.GroupNorm: "groupnorm",
    nn.BatchNorm2d: "batchnorm",
    Dropout: "dropout",
}
FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.flatten: "flatten",
    F.max_pool2d: "maxpool",
    F.avg_pool2d: "pool",
    F.adaptive_avg_pool2d: "pool",
    operator.add: "add",
    torch.add: "add",
}
METHODS = {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "flatten": "flatten",
    "view": "view",
    "reshape": "view",
}
POINTWISE = ("relu", "tanh", "sigmoid", "gelu", "identity")


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Dropout) or super().is_leaf_module(m, module_qualified_name)


class UnknownLayerError(Exception):
    """The forward holds something that is no known layer."""


def layers(model: Model) -> list[Layer]:
    """The forward of a model, in order; the last layer's output is the network's.

    Raises UnknownLayerError, with the reason, for control flow on values, unknown layers, hooks, and parameters that
    are frozen, shared or used outside of layers.
    """
    module = model.module.train()
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in module.modules()):
        raise UnknownLayerError("it has hooks")
    if model.frozen:
        raise UnknownLayerError("some of its parameters are frozen")
    try:
        with GATE.tracing():
            graph = _Tracer().trace(module)
    except Exception as error:  # whatever a user's forward does with a stand-in for a tensor
        raise UnknownLayerError(f"its forward cannot be followed: {error}") from None
    found: list[Layer] = []
    where: dict[fx.Node, int] = {}
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise UnknownLayerError(f"its forward takes {len(inputs)} inputs")
    where[inputs[0]] = -1
    for node in graph.nodes:
        if node.op == "output":
            if where.get(node.args[0]) != len(found) - 1:
                raise UnknownLayerError("its output is not its last layer's")
        elif node.op != "placeholder" and not _is_size(node):
            found.append(_layer(node, where, module))
            where[node] = len(found) - 1
    used = {f"{layer.name}.{n}" for layer in found if layer.module for n, _ in layer.module.named_parameters()}
    if used != set(model.names):
        raise UnknownLayerError("some parameters belong to no known layer, or are shared")
    return found


def _is_size(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "size" and node.args[1:] == (0,)


def _layer(node: fx.Node, where: dict[fx.Node, int], root: nn.Module) -> Layer:
    sources = tuple(a for a in node.args if isinstance(a, fx.Node) and a in where)
    inputs = tuple(where[a] for a in sources)
    if node.op == "call_module":
        name = str(node.target)
        module = root.get_submodule(name)
        op = MODULES.get(type(module))
        if op is None or len(inputs) != 1 or node.kwargs or not _plain(module):
            raise UnknownLayerError(f"{name} is a {module}")
        return Layer(op, inputs, name, module, module if op in ("pool", "maxpool") else None)
    op = METHODS.get(str(node.target)) if node.op == "call_method" else FUNCTIONS.get(node.target)
    rest = node.args[1:]
    if op == "add" and len(inputs) == 2 and not node.kwargs:
        return Layer(op, inputs)
    if len(inputs) != 1 or any(isinstance(v, fx.Node) for v in node.kwargs.values()):
        raise UnknownLayerError(f"{node.format_node()}")
    if op == "view" and len(rest) == 2 and isinstance(rest[0], fx.Node) and _is_size(rest[0]) and rest[1] == -1:
        return Layer("flatten", inputs)
    if op == "flatten" and (rest == (1,) or node.kwargs == {"start_dim": 1}):
        return Layer(op, inputs)
    if op in ("pool", "maxpool"):
        function, kwargs = node.target, dict(node.kwargs)
        return Layer(op, inputs, apply=lambda x: function(x, *rest, **kwargs))  # type: ignore[operator]
    if op in POINTWISE and not rest and set(node.kwargs) <= {"inplace"}:
        return Layer(op, inputs)
    raise UnknownLayerError(f"{node.format_node()}")


def _plain(module: nn.Module) -> bool:
    match module:
        case nn.Conv2d():
            return module.padding_mode == "zeros"
        case nn.Flatten():
            return (module.start_dim, module.end_dim) == (1, -1)
        case nn.MaxPool2d():
            return not module.return_indices
        case nn.GELU():
            return module.approximate == "none"
        case nn.BatchNorm2d():
            return module.track_running_stats and module.momentum is not None
    return True
