"""Which permutations of hidden units leave a network's function as it is: derived from the module itself.

The module is traced (torch.fx) and run once on samples. Every operation says which axes have to follow the same
permutation: the columns of a linear layer those of its input, both sides of a sum one another, a flattened image its
channels. What the input and the output hold stays, and so do frozen parameters, which peers have in common. An
operation that is not known may only see what stays. In the end each permutation is tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from hubless.errors import ConfigError
from hubless.learn.gate import GATE
from hubless.learn.matching.equivariance import Call
from hubless.learn.matching.operations import FUNCTIONS, MODULES
from hubless.learn.matching.permutations import FIXED, Axis, Piece, Spec, tensors_of
from hubless.learn.matching.units import Axes, Row, Units, fixed, is_fixed
from hubless.learn.model import Model

HELP = "give a spec by hand"


def derive(model: Model, x: Tensor) -> Spec:
    """The permutations of a network that takes samples ``x [B, ...]``.

    Raises ConfigError, naming the operation, where they cannot be derived.
    """
    module = model.copy().eval()
    try:
        with GATE.tracing():
            graph = fx.GraphModule(module, _Tracer().trace(module))
    except Exception as error:  # whatever a module does with a stand-in for its input
        why = str(error).split("\n")[0]
        raise ConfigError(f"spec: {model.name} cannot be traced ({why}); {HELP}") from error
    walk = _Walk(graph, frozen=set(model.frozen))
    with torch.no_grad():
        walk.run(x)
    spec = Spec(walk.named(tensors_of(model, model.start(0), model.state())))
    spec.check(model, x)
    return spec


class _Tracer(fx.Tracer):
    """Goes into everything but the layers that are known."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in MODULES or super().is_leaf_module(m, module_qualified_name)


class _Walk(fx.Interpreter):
    """Runs the graph, and keeps for every value what its axes are made of."""

    def __init__(self, graph: fx.GraphModule, frozen: set[str]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.extra_traceback = False  # errors are for people who build networks, not for those who trace them
        self.units = Units()
        self._axes: dict[fx.Node, Axes] = {}
        self._names: dict[int, str] = {}
        self._own: dict[str, Axes] = {}
        self._used: set[str] = set()
        for name, value in [*graph.named_parameters(), *graph.named_buffers()]:
            self._names[id(value)] = name
            free = value.is_floating_point() and name not in frozen
            self._own[name] = tuple(self.units.fresh(n) if free else fixed(n) for n in value.shape)

    def run_node(self, n: fx.Node) -> Any:
        """One operation: its value as ever, and the axes of that."""
        value = super().run_node(n)
        if n.op == "output":
            for row in (row for node in n.all_input_nodes for row in self.axes_of(node)):
                self.units.pin(row)
        elif isinstance(value, Tensor):
            self._axes[n] = self._found(n, value)
        elif not _asks(n) and not all(map(self._still, n.all_input_nodes)):
            raise self.unknown(n)
        return value

    def _found(self, n: fx.Node, value: Tensor) -> Axes:
        if n.op == "get_attr":
            return self.parameter(value)
        layer = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        rule = FUNCTIONS.get(name.strip("_")) if layer is None else MODULES.get(type(layer))
        if rule is not None and n.op != "placeholder":
            return rule(Call(self, n, value, layer))
        if all(map(self._still, n.all_input_nodes)):
            return tuple(map(fixed, value.shape))
        raise self.unknown(n)

    def _still(self, node: fx.Node) -> bool:
        """Whether a value holds nothing that may change places."""
        return all(is_fixed(self.units.resolve(row)) for row in self.axes_of(node))

    def axes_of(self, arg: Any) -> Axes:
        """The axes of a value of the graph; none of anything else."""
        return self._axes.get(arg, ()) if isinstance(arg, fx.Node) else ()

    def parameter(self, value: Tensor) -> Axes:
        """The axes of a parameter or buffer, which from now on counts as used; constants stay."""
        name = self._names.get(id(value))
        if name is None:
            return tuple(map(fixed, value.shape))
        self._used.add(name)
        return self._own[name]

    def unknown(self, n: fx.Node, why: str = "is not known") -> ConfigError:
        """The error that names an operation."""
        what = f"{n.name!r}"
        if n.op == "call_module":
            what = f"{type(self.fetch_attr(str(n.target))).__name__} at {str(n.target)!r}"
        return ConfigError(f"spec: permutations cannot be derived through {what}, which {why}; {HELP}")

    def named(self, tensors: Iterable[str]) -> dict[str, tuple[Axis, ...]]:
        """The axes of all tensors, with permutations named after the layer that makes their units."""
        for name in set(self._own) - self._used:
            for row in self._own[name]:
                self.units.pin(row)
        rows = {name: tuple(map(self.units.resolve, self._own[name])) for name in tensors}
        made = {name: axes[:1] for name, axes in rows.items() if "." in name}
        called: dict[int, str] = {}
        for name, axes in (*made.items(), *rows.items()):
            layer = name.rpartition(".")[0] or name
            for atom in (term.atom for row in axes for term in row if term.atom is not None):
                if atom not in called:
                    called[atom] = layer if layer not in called.values() else f"{layer}/{len(called)}"
        return {name: tuple(_axis(row, called) for row in axes) for name, axes in rows.items()}


def _axis(row: Row, called: dict[int, str]) -> Axis:
    return tuple(
        Piece(FIXED, term.units) if term.atom is None else Piece(called[term.atom], term.units, term.repeat)
        for term in row
    )


def _asks(n: fx.Node) -> bool:
    """Whether an operation asks for a shape or a type, and no number."""
    if n.target is getattr:
        return n.args[1] in ("shape", "dtype", "device", "ndim")
    return n.target in ("size", "dim", "numel")
