"""Rewriting a traced graph: drop what does nothing, and put plain SGD into the products that make gradients."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
SAME_SHAPE = {aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.reshape.default}


def _shape(node: Any) -> tuple[int, ...] | None:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _mutates(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _axes(node: Node) -> tuple[int, int] | None:
    if node.target is not aten.transpose.int:
        return None
    shape = _shape(node)
    if shape is None:
        return None
    a, b = int(node.args[1]), int(node.args[2])  # type: ignore[arg-type]
    a, b = sorted((a % len(shape), b % len(shape)))
    return a, b


def _replacement(node: Node, pure: bool) -> Node | None:
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return None
    if node.target in SAME_SHAPE and _shape(node) is not None and _shape(node) == _shape(source):
        return source
    if node.target in (aten.detach.default, aten.alias.default):
        return source
    if pure and node.target is aten.mul.Scalar and node.args[1] == 1:
        return source
    if pure and node.target is aten.clone.default and source.op != "placeholder" and not node.kwargs:
        return source
    if (axes := _axes(node)) and axes == _axes(source) and isinstance(source.args[0], Node):
        return source.args[0]
    return None


def _product_with_bias(graph: Graph, node: Node) -> None:
    """``add(bias, bmm(a, b))`` is ``baddbmm(bias, a, b)``."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return
    for product, bias in (node.args, tuple(reversed(node.args))):
        if not (isinstance(product, Node) and product.target is aten.bmm.default and isinstance(bias, Node)):
            continue
        shape = _shape(bias)
        if len(product.users) == 1 and shape is not None and len(shape) == 3 and _shape(product) == _shape(node):
            with graph.inserting_before(node):
                fused = graph.call_function(aten.baddbmm.default, (bias, *product.args))
            fused.meta = node.meta
            node.replace_all_uses_with(fused)
            return


def clean(graph: Graph) -> None:
    """Drop identity views, pairs of transposes and multiplications by 1; add a bias inside its product."""
    pure = not any(_mutates(node) for node in graph.nodes)
    for node in list(graph.nodes):
        if node.op == "call_function" and (source := _replacement(node, pure)) is not None:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    for node in list(graph.nodes):
        _product_with_bias(graph, node)
    graph.eliminate_dead_code()


def _views(node: Node) -> bool:
    """Whether the node looks at its first argument's memory."""
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def _root(node: Node) -> Node:
    """The tensor that a chain of views looks at."""
    while node.op == "call_function" and _views(node) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def fuse(graph: Graph, count: int) -> None:
    """Turn ``[gradients of the first count inputs, *rest]`` into updates of those inputs in place, then ``rest``.

    The rate becomes the graph's last input. All updates come last, after every read of a parameter; a product
    is only delayed to there when its factors are not parameters themselves.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    parameters = inputs[:count]
    output = next(node for node in graph.nodes if node.op == "output")
    results = list(output.args[0])
    with graph.inserting_after(inputs[-1]):
        rate = graph.placeholder("lr")
    with graph.inserting_before(output):
        gradients = []
        for g in results[:count]:
            held = _root(g) in parameters
            gradients.append(graph.call_function(aten.clone.default, (g,)) if held else g)
        step = graph.call_function(operator.neg, (rate,))
        for p, g in zip(parameters, gradients, strict=True):
            _update(graph, p, g, step, parameters)
    output.args = (results[count:],)
    graph.eliminate_dead_code()


def _update(graph: Graph, p: Node, g: Node, step: Node, parameters: list[Node]) -> None:
    product = g
    if _axes(g) == (1, 2) and isinstance(g.args[0], Node):
        product = g.args[0]
    alone = len(product.users) == 1 and len(g.users) == 1
    factors = [a for a in product.args if isinstance(a, Node)]
    if product.target is not aten.bmm.default or not alone or any(_root(a) in parameters for a in factors):
        graph.call_function(aten.add_.Tensor, (p, g), {"alpha": step})
        return
    if product is not g:  # (a b)' = b' a', so that the parameter itself stays contiguous
        factors = [_transposed(graph, a) for a in reversed(factors)]
    graph.call_function(aten.baddbmm_.default, (p, *factors), {"beta": 1, "alpha": step})


def _transposed(graph: Graph, node: Node) -> Node:
    if _axes(node) == (1, 2) and isinstance(node.args[0], Node):
        return node.args[0]
    return graph.call_function(aten.transpose.int, (node, 1, 2))
