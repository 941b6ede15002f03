"""Gradients for a part that is written for one peer: under ``torch.vmap`` every call reaches the kernel once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from hubless.learn.context import Batch, State
from hubless.learn.kernels.base import Kernel
from hubless.learn.kernels.clipped import clipped


class Session:
    """The slope of one chunk of peers: ``context.Slope`` over a kernel.

    Works on one peer (``w [D]``), and inside ``torch.vmap`` over peers, where each call of ``grad``, ``clipped`` or
    ``input_grad`` becomes one call of the kernel for the chunk. Gradients are not differentiable again.
    ``losses`` gathers the losses of every ``grad`` and ``clipped``: ``[C]`` mapped, ``[1]`` for one peer.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.losses: list[Tensor] = []

    def grad(self, w: Tensor, s: State, batch: Batch) -> tuple[Tensor, State]:
        """Gradient ``[D]`` of the mean loss, and the state with its buffers moved on."""
        names = tuple(self.kernel.model.buffers)
        g, *buffers = _Gradient.apply(self, names, batch.weight is not None, *_flat(w, s, names, batch))  # type: ignore[no-untyped-call]
        return g, ({**s, **dict(zip(names, buffers, strict=True))} if names else s)

    def clipped(self, w: Tensor, s: State, batch: Batch, bound: float) -> tuple[Tensor, State]:
        """Sum ``[D]`` of the samples' gradients, each clipped to the norm ``bound``, and the state."""
        names = tuple(self.kernel.model.buffers)
        g, *buffers = _Clipped.apply(self, names, batch.weight is not None, bound, *_flat(w, s, names, batch))  # type: ignore[no-untyped-call]
        return g, ({**s, **dict(zip(names, buffers, strict=True))} if names else s)

    def input_grad(self, w: Tensor, s: State, batch: Batch) -> Tensor:
        """Gradient of the mean loss with respect to ``batch.x``, in evaluation mode."""
        names = tuple(self.kernel.model.buffers)
        found: Tensor = _InputGradient.apply(self, names, batch.weight is not None, *_flat(w, s, names, batch))  # type: ignore[no-untyped-call]
        return found

    def stacked_grad(self, names: tuple[str, ...], weighted: bool, flat: list[Tensor]) -> tuple[Tensor, ...]:
        """The kernel's gradients ``[C, D]`` and new buffers, for stacked tensors."""
        W, S, batch = _chunk(names, weighted, flat)
        G, S, losses = self.kernel.grad(W, S, batch)
        self.losses.append(losses)
        return (G, *(S[n] for n in names))

    def stacked_clipped(
        self, names: tuple[str, ...], weighted: bool, bound: float, flat: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Clipped sums ``[C, D]`` and new buffers, for stacked tensors."""
        found, S, losses = clipped(self.kernel, *_chunk(names, weighted, flat), bound)
        self.losses.append(losses)
        return (found, *(S[n] for n in names))

    def stacked_input_grad(self, names: tuple[str, ...], weighted: bool, flat: list[Tensor]) -> Tensor:
        """The kernel's input gradients ``[C, B, ...]``, for stacked tensors."""
        return self.kernel.input_grad(*_chunk(names, weighted, flat))


def _flat(w: Tensor, s: State, names: tuple[str, ...], batch: Batch) -> list[Tensor]:
    weight = [] if batch.weight is None else [batch.weight]
    return [w.detach(), *(s[n] for n in names), batch.x.detach(), batch.y, *weight]


def _chunk(names: tuple[str, ...], weighted: bool, flat: list[Tensor]) -> tuple[Tensor, State, Batch]:
    W, rest = flat[0], flat[1 + len(names) :]
    return W, dict(zip(names, flat[1:], strict=False)), Batch(rest[0], rest[1], rest[2] if weighted else None)


def _stack(info: Any, in_dims: tuple[int | None, ...], flat: tuple[Tensor, ...]) -> list[Tensor]:
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(flat, in_dims, strict=True)
    ]


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(session: Session, names: tuple[str, ...], weighted: bool, *flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[0] for t in session.stacked_grad(names, weighted, [t[None] for t in flat]))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        session: Session,
        names: tuple[str, ...],
        weighted: bool,
        *flat: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        found = session.stacked_grad(names, weighted, _stack(info, in_dims[3:], flat))
        return found, (0,) * len(found)


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(
        session: Session, names: tuple[str, ...], weighted: bool, bound: float, *flat: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(t[0] for t in session.stacked_clipped(names, weighted, bound, [t[None] for t in flat]))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        session: Session,
        names: tuple[str, ...],
        weighted: bool,
        bound: float,
        *flat: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        found = session.stacked_clipped(names, weighted, bound, _stack(info, in_dims[4:], flat))
        return found, (0,) * len(found)


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(session: Session, names: tuple[str, ...], weighted: bool, *flat: Tensor) -> Tensor:
        return session.stacked_input_grad(names, weighted, [t[None] for t in flat])[0]

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        session: Session,
        names: tuple[str, ...],
        weighted: bool,
        *flat: Tensor,
    ) -> tuple[Tensor, int]:
        return session.stacked_input_grad(names, weighted, _stack(info, in_dims[3:], flat)), 0
