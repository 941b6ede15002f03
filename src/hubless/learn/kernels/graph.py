"""A chunk's step as one traced graph: ``make_fx`` over ``vmap`` and autograd, cleaned, with plain SGD fused in."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hubless.learn.context import Batch, State
from hubless.learn.gate import GATE
from hubless.learn.kernels.base import (
    Mean,
    blocks,
    buffers_of,
    join_rows,
    mean_loss,
    module_name,
    moved,
    sample_losses,
    split_rows,
    write_rows,
)
from hubless.learn.kernels.clean import clean, fuse
from hubless.learn.kernels.loop import Loop
from hubless.learn.model import Model

Compiled = Callable[..., list[Tensor]]


class Graph:
    """The step of a whole chunk, traced once for each shape of batch and replayed."""

    name: ClassVar[str] = "graph"

    def __init__(self, model: Model) -> None:
        self.model = model
        self._traced: dict[tuple[Any, ...], Compiled] = {}
        self._loop = Loop(model)
        self._lock = threading.Lock()
        self._mappable: bool | None = None

    @property
    def traced(self) -> bool:
        """Whether it has traced some step of this model."""
        return bool(self._traced)

    def _one(self, train: bool) -> Callable[..., tuple[Tensor, list[Tensor]]]:
        model = self.model
        module = model.module.train(train)
        inside = [module_name(n) for n in model.buffers]

        def one(
            ps: list[Tensor], x: Tensor, bs: list[Tensor], fs: list[Tensor], y: Tensor, weight: Tensor | None
        ) -> tuple[Tensor, list[Tensor]]:
            tensors = dict(zip(model.names, ps, strict=True)) | dict(zip(model.frozen, fs, strict=True))
            tensors |= {n: b.clone() for n, b in zip(inside, bs, strict=True)}
            out = functional_call(module, tensors, (x,))
            loss = mean_loss(sample_losses(model.loss, out, y), weight)
            return loss, [tensors[n] for n in inside]

        return one

    def _trace(self, kind: str, ps: list[Tensor], bs: list[Tensor], batch: Batch) -> Compiled:
        from torch.fx.experimental.proxy_tensor import make_fx

        one = self._one(train=kind != "input")
        weight = batch.weight
        mapped = vmap(one, in_dims=(0, 0, 0, None, 0, None if weight is None else 0))
        fs = list(self.model.frozen.values())  # inputs, because they may be given new values
        a, f, b = len(ps), len(ps) + len(bs), len(ps) + len(bs) + len(fs)

        def flat(*args: Tensor) -> list[Tensor]:
            # Peers are independent, so the gradient of the sum holds each peer's own; torch.func.grad would give
            # the same graph, but imports the compiler (a second) on its first use.
            free = [t.detach().requires_grad_() for t in ([args[b]] if kind == "input" else args[:a])]
            now, x = (list(args[:a]), free[0]) if kind == "input" else (free, args[b])
            with torch.enable_grad():
                losses, after = mapped(
                    now, x, list(args[a:f]), list(args[f:b]), *args[b + 1 :], *([None] if weight is None else [])
                )
                found = torch.autograd.grad(losses.sum(), free, allow_unused=True, materialize_grads=True)
            return [*found, losses.detach(), *(t.detach() for t in after)]

        # the same tensor given twice would be taken for one argument
        example = [
            t.detach().clone(memory_format=torch.contiguous_format)
            for t in (*ps, *bs, *fs, batch.x, batch.y, *(() if weight is None else (weight,)))
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "no batching rule yet": calibration judges such graphs by their speed
            traced = make_fx(flat, tracing_mode="fake")(*example)
        clean(traced.graph)
        if kind == "sgd":
            fuse(traced.graph, len(ps))
        traced.recompile()
        return traced

    def _get(self, kind: str, ps: list[Tensor], bs: list[Tensor], batch: Batch) -> Compiled:
        weight = batch.weight
        key = (kind, len(ps[0]), batch.x.shape, batch.x.dtype, batch.y.shape, batch.y.dtype, weight is None)
        if key not in self._traced:
            with GATE.tracing():
                if key not in self._traced:
                    self._traced[key] = self._trace(kind, ps, bs, batch)
        return self._traced[key]

    def _call(self, kind: str, ps: list[Tensor], bs: list[Tensor], batch: Batch, *more: float) -> list[Tensor]:
        weight = () if batch.weight is None else (batch.weight,)
        return self._get(kind, ps, bs, batch)(
            *ps, *(t.contiguous() for t in (*bs, *self.model.frozen.values(), batch.x, batch.y, *weight)), *more
        )

    @torch.no_grad()
    def grad(self, W: Tensor, S: State, batch: Batch) -> tuple[Tensor, State, Tensor]:
        """See ``Kernel.grad``."""
        ps, bs = split_rows(self.model, W), buffers_of(self.model, S, len(W))
        found = self._call("grad", ps, bs, batch)
        n = len(ps)
        return join_rows(found[:n], len(W)), moved(self.model, S, bs, found[n + 1 :], batch.weight), found[n]

    @torch.no_grad()
    def input_grad(self, W: Tensor, S: State, batch: Batch) -> Tensor:
        """See ``Kernel.input_grad``."""
        ps, bs = split_rows(self.model, W), buffers_of(self.model, S, len(W))
        return self._call("input", ps, bs, batch)[0]

    @torch.no_grad()
    def epoch(
        self, W: Tensor, S: State, batches: Iterable[Batch], lr: float, out: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """See ``Kernel.epoch``."""
        ps, mean = split_rows(self.model, W), Mean(len(W))
        for batch in batches:
            bs = buffers_of(self.model, S, len(W))
            losses, *after = self._call("sgd", ps, bs, batch, lr)
            S = moved(self.model, S, bs, after, batch.weight)
            mean.add(losses, batch.weight)
        write_rows(self.model, W if out is None else out, ps)
        return S, mean.value()

    @torch.no_grad()
    def forward(self, W: Tensor, S: State, x: Tensor, shared: bool = True) -> Tensor:
        """See ``Kernel.forward``."""
        module = self.model.module.eval()
        ps = dict(zip(self.model.names, split_rows(self.model, W), strict=True))
        bs = dict(zip(map(module_name, self.model.buffers), buffers_of(self.model, S, len(W)), strict=True))
        frozen = self.model.frozen

        def one(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            out: Tensor = functional_call(module, tensors | frozen, (x,))
            return out

        mapped = vmap(one, in_dims=(0, None if shared else 0))
        dim = 0 if shared else 1
        with self._lock:
            if self._mappable is None:
                self._mappable = _quiet(lambda: mapped(ps | bs, x.narrow(dim, 0, 1)))
        if not self._mappable:
            return self._loop.forward(W, S, x, shared)
        sizes = blocks(x.shape[dim], len(W) * widest(module))
        return torch.cat([mapped(ps | bs, part) for part in x.split_with_sizes(sizes, dim=dim)], dim=1)


def _quiet(work: Callable[[], Tensor]) -> bool:
    """Whether mapped code needs no slow substitute for an operation that cannot be mapped, which warns."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            work()
        except RuntimeError:
            return False
    return not said


def widest(module: nn.Module) -> int:
    """Outputs of the widest layer, where layers say so."""
    sizes = [getattr(m, name, 0) for m in module.modules() for name in ("out_features", "embedding_dim", "hidden_size")]
    return max([16, *(s for s in sizes if isinstance(s, int))])
