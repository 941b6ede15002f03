"""Perceptrons by hand: batched products, gradients written out, and SGD inside the product that makes them.

The headline workload. Against the traced graph it needs no tracing (which imports torch's compiler, over a second),
and keeps activations in place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from hubless.learn.context import Batch, State
from hubless.learn.kernels.base import (
    Mean,
    blocks,
    chunk_losses,
    factors_of,
    join_rows,
    mean_loss,
    parts_of,
    split_rows,
    weights,
    write_rows,
)
from hubless.learn.kernels.layers import Layer, UnknownLayerError, layers
from hubless.learn.model import Model, classification_loss

aten = torch.ops.aten
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "relu": (torch.relu_, lambda g, h: aten.threshold_backward(g, h, 0)),
    "tanh": (torch.tanh_, aten.tanh_backward),
    "sigmoid": (torch.sigmoid_, aten.sigmoid_backward),
}
Use = Callable[[int, Tensor, Tensor], None]


def _squares(rows: Tensor) -> Tensor:
    """Squared norms along the last dimension."""
    found: Tensor = torch.linalg.vecdot(rows, rows)
    return found


class Dense:
    """Chains of linear layers and pointwise activations, all peers of a chunk at once.

    Raises UnknownLayerError for any other model.
    """

    name: ClassVar[str] = "dense"

    def __init__(self, model: Model) -> None:
        self.model = model
        self._here = threading.local()
        chain = [layer for layer in layers(model) if layer.op != "identity"]
        self.flat = bool(chain) and chain[0].op == "flatten"
        # per linear layer: numbers of its weight and bias among the parameters, and the activation after it
        self.linear: list[tuple[int, int | None, str | None]] = []
        for layer in chain[1:] if self.flat else chain:
            self._add(layer)
        if not self.linear:
            raise UnknownLayerError("it has no linear layer")

    def _add(self, layer: Layer) -> None:
        names = self.model.names
        if layer.op == "linear":
            weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
            if any(names[w] == weight for w, _, _ in self.linear):
                raise UnknownLayerError(f"{layer.name} is used twice")
            self.linear.append((names.index(weight), names.index(bias) if bias in names else None, None))
        elif layer.op in ACTIVATIONS and self.linear and self.linear[-1][2] is None:
            self.linear[-1] = (*self.linear[-1][:2], layer.op)
        else:
            raise UnknownLayerError(f"{layer.op} is no part of a perceptron")

    def accepts(self, x: Tensor) -> bool:
        """Whether samples ``[C, B, ...]`` reach the first layer as rows."""
        return self.flat or x.dim() == 3

    def _inputs(self, ps: list[Tensor], x: Tensor) -> list[Tensor]:
        """The input of every linear layer, and the output."""
        hs = [x.reshape(*x.shape[:2], -1) if self.flat else x]
        for w, b, activation in self.linear:
            h = torch.bmm(hs[-1], ps[w].mT) if b is None else torch.baddbmm(ps[b].unsqueeze(1), hs[-1], ps[w].mT)
            hs.append(ACTIVATIONS[activation][0](h) if activation else h)
        return hs

    def _losses(self, out: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses ``[C]`` and their gradients with respect to the output."""
        C, B = out.shape[:2]
        if self.model.loss is not classification_loss:
            with torch.enable_grad():
                free = out.detach().requires_grad_()
                losses = mean_loss(chunk_losses(self.model.loss, free, batch.y), batch.weight)
                return losses.detach(), torch.autograd.grad(losses.sum(), free)[0]
        logs = torch.log_softmax(out, -1)
        labels = batch.y.unsqueeze(-1)
        losses = mean_loss(-logs.gather(-1, labels).squeeze(-1), batch.weight)
        g = logs.exp_()
        g.scatter_add_(-1, labels, g.new_full((), -1.0).expand(C, B, 1))
        return losses, g.mul_(1 / B) if batch.weight is None else g.mul_(weights(batch.weight).unsqueeze(-1))

    def _back(self, ps: list[Tensor], hs: list[Tensor], g: Tensor, use: Use, first: bool = False) -> Tensor:
        """Hand each linear layer's output gradient and input to ``use``, last layer first.

        Returns the gradient with respect to the input when asked for (``first``).
        """
        for i in range(len(self.linear) - 1, -1, -1):
            if activation := self.linear[i][2]:
                g = ACTIVATIONS[activation][1](g, hs[i + 1])
            # read the weight before ``use`` may change it
            before = torch.bmm(g, ps[self.linear[i][0]]) if i or first else g
            use(i, g, hs[i])
            g = before
        return g

    @torch.no_grad()
    def grad(self, W: Tensor, S: State, batch: Batch) -> tuple[Tensor, State, Tensor]:
        """See ``Kernel.grad``."""
        ps = split_rows(self.model, W)
        hs = self._inputs(ps, batch.x)
        losses, g = self._losses(hs[-1], batch)
        found: list[Tensor] = list(ps)

        def keep(i: int, g: Tensor, h: Tensor) -> None:
            w, b, _ = self.linear[i]
            found[w] = torch.bmm(g.mT, h)
            if b is not None:
                found[b] = g.sum(1)

        self._back(ps, hs, g, keep)
        return join_rows(found, len(W)), S, losses

    @torch.no_grad()
    def input_grad(self, W: Tensor, S: State, batch: Batch) -> Tensor:
        """See ``Kernel.input_grad``."""
        ps = split_rows(self.model, W)
        hs = self._inputs(ps, batch.x)
        _, g = self._losses(hs[-1], batch)
        return self._back(ps, hs, g, lambda i, g, h: None, first=True).view(batch.x.shape)

    @torch.no_grad()
    def clipped(self, W: Tensor, batch: Batch, bound: float) -> tuple[Tensor, Tensor]:
        """Sums ``[C, D]`` of each sample's gradient, clipped to the norm ``bound``, and losses ``[C]``.

        No sample's gradient is ever made: that of a linear layer is ``g h'``, so its squared norm is ``|g|^2 |h|^2``,
        and ``|g|^2`` for its bias (Goodfellow 2015, arXiv 1510.01799). A factor on a sample's loss is one on its ``g``.
        """
        ps = split_rows(self.model, W)
        hs = self._inputs(ps, batch.x)
        losses = mean_loss(chunk_losses(self.model.loss, hs[-1], batch.y), batch.weight)
        _, g = self._losses(hs[-1], batch._replace(weight=None))
        g *= g.shape[1]  # of each loss, not of their mean
        gs: list[Tensor] = [g] * len(self.linear)
        squares = torch.zeros(g.shape[:2], device=g.device)

        def measure(i: int, g: Tensor, h: Tensor) -> None:
            gs[i] = g
            inputs = _squares(h) if self.linear[i][1] is None else _squares(h) + 1
            squares.addcmul_(_squares(g), inputs)

        self._back(ps, hs, g, measure)
        factors = factors_of(squares, bound, batch.weight).unsqueeze(-1)
        found: list[Tensor] = list(ps)
        for (w, b, _), g, h in zip(self.linear, gs, hs[:-1], strict=True):
            g = g * factors
            found[w] = torch.bmm(g.mT, h)
            if b is not None:
                found[b] = g.sum(1)
        return join_rows(found, len(W)), losses

    @torch.no_grad()
    def epoch(
        self, W: Tensor, S: State, batches: Iterable[Batch], lr: float, out: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """See ``Kernel.epoch``."""
        ps, mean = self._desk(W), Mean(len(W))

        def descend(i: int, g: Tensor, h: Tensor) -> None:
            w, b, _ = self.linear[i]
            ps[w].baddbmm_(g.mT, h, beta=1, alpha=-lr)
            if b is not None:
                ps[b].add_(g.sum(1), alpha=-lr)

        for batch in batches:
            hs = self._inputs(ps, batch.x)
            losses, g = self._losses(hs[-1], batch)
            self._back(ps, hs, g, descend)
            mean.add(losses, batch.weight)
        write_rows(self.model, W if out is None else out, ps)
        return S, mean.value()

    def _desk(self, W: Tensor) -> list[Tensor]:
        """The rows' parameters in tensors that this thread uses again: fresh ones cost more than the copying."""
        desks: dict[object, list[Tensor]] = self._here.__dict__.setdefault("desks", {})
        key = (len(W), W.device)
        if key not in desks:
            desks[key] = [torch.empty(len(W), *shape, device=W.device) for shape in self.model.shapes]
        for tensor, part in zip(desks[key], parts_of(self.model, W.detach()), strict=True):
            tensor.copy_(part.view(tensor.shape))
        return desks[key]

    @torch.no_grad()
    def forward(self, W: Tensor, S: State, x: Tensor, shared: bool = True) -> Tensor:
        """See ``Kernel.forward``."""
        ps = split_rows(self.model, W)
        C = len(W)
        sizes = blocks(x.shape[0 if shared else 1], C * max(ps[w].shape[1] for w, _, _ in self.linear))
        if not shared:
            return torch.cat([self._inputs(ps, part)[-1] for part in x.split_with_sizes(sizes, dim=1)], dim=1)
        parts = [part.expand(C, *part.shape) for part in x.split_with_sizes(sizes)]
        return torch.cat([self._inputs(ps, part)[-1] for part in parts], dim=1)
