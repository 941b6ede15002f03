"""What every kernel offers, and what they share: losses, rows to tensors and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from hubless.learn.context import Batch, State
from hubless.learn.model import BUFFER, LOSSES, Loss, Model, classification_loss

TINY = torch.finfo(torch.float32).tiny
BLOCK = 1 << 20  # floats of one layer's output in an evaluation: about what stays in a core's cache


@runtime_checkable
class Kernel(Protocol):
    """How a chunk of C peers computes. Rows are ``W [C, D]`` float32, buffers ``S["buffer/NAME"] [C, ...]``.

    A batch is ``x [C, B, ...]``, ``y [C, B, ...]`` and perhaps ``weight [C, B]``; a peer's loss is
    ``sum(l * weight) / sum(weight)``. A peer whose weights are all 0 has gradient 0 and keeps its buffers.
    Kernels may be used by several threads at once.
    """

    name: ClassVar[str]
    model: Model

    def grad(self, W: Tensor, S: State, batch: Batch) -> tuple[Tensor, State, Tensor]:
        """Gradients ``[C, D]``, the state with its buffers moved on (training mode), and losses ``[C]``."""

    def input_grad(self, W: Tensor, S: State, batch: Batch) -> Tensor:
        """Each peer's gradient with respect to its ``x``, in evaluation mode; buffers stay as they are."""

    def epoch(
        self, W: Tensor, S: State, batches: Iterable[Batch], lr: float, out: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """Plain SGD over all batches; the rows afterwards go to ``out``, or replace ``W`` where there is none.

        Returns the state and losses ``[C]``, averaged over the steps in which the peer had samples.
        """

    def forward(self, W: Tensor, S: State, x: Tensor, shared: bool = True) -> Tensor:
        """Outputs ``[C, M, ...]`` in evaluation mode for ``x [M, ...]``, or ``[C, M, ...]`` when not shared."""


def sample_losses(loss: Loss, out: Tensor, y: Tensor) -> Tensor:
    """One loss a sample ``[B]``.

    Cross-entropy is written out, because torch's own adds four operations that skip the label -100.
    """
    if loss is classification_loss and out.dim() == 2:
        return -torch.log_softmax(out, -1).gather(-1, y[:, None])[:, 0]
    return loss(out, y)


def chunk_losses(loss: Loss, out: Tensor, y: Tensor) -> Tensor:
    """Losses ``[C, B]`` of outputs ``[C, B, ...]``: each peer's loss of its own batch."""
    if loss is classification_loss and out.dim() == 3:
        return -torch.log_softmax(out, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    if loss in LOSSES.values():  # one value a sample, whatever else is in the batch
        return loss(out.flatten(0, 1), y.flatten(0, 1)).view(out.shape[:2])
    mapped: Tensor = torch.vmap(loss)(out, y)
    return mapped


def weights(weight: Tensor) -> Tensor:
    """Each sample's share of its peer's mean."""
    return weight / weight.sum(-1, keepdim=True).clamp_min(TINY)


def mean_loss(losses: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over the last dimension, weighted where there are weights."""
    return losses.mean(-1) if weight is None else (losses * weights(weight)).sum(-1)


def factors_of(squares: Tensor, bound: float, weight: Tensor | None) -> Tensor:
    """Factors ``min(1, bound / norm)`` that clip vectors with these squared norms; 0 for a sample that does not count.

    A norm that is not finite gives 0 or NaN, never a factor that would let it pass.
    """
    factors = (bound * squares.rsqrt()).clamp(max=1.0)
    return factors if weight is None else factors * weight


def buffers_of(model: Model, S: Mapping[str, Tensor], C: int) -> list[Tensor]:
    """The chunk's buffers in the model's order; those that the state lacks start fresh."""
    return [S[n] if n in S else b.expand(C, *b.shape).clone() for n, b in model.buffers.items()]


def moved(model: Model, S: State, before: list[Tensor], after: list[Tensor], weight: Tensor | None) -> State:
    """The state with new buffers, except for peers that had no sample."""
    if not model.buffers:
        return S
    if weight is not None:
        some = weight.sum(-1) > 0
        after = [
            torch.where(some.reshape(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in zip(after, before, strict=True)
        ]
    return {**S, **dict(zip(model.buffers, after, strict=True))}


def module_name(name: str) -> str:
    """A buffer's name inside the module."""
    return name.removeprefix(BUFFER)


def parts_of(model: Model, W: Tensor) -> list[Tensor]:
    """Views of rows ``[C, D]``, one ``[C, size]`` a parameter; of one row ``[D]``, one ``[size]``."""
    return list(W.split_with_sizes(list(model.sizes), dim=-1))


def split_rows(model: Model, W: Tensor) -> list[Tensor]:
    """Contiguous ``[C, *shape]`` copies of the rows' parameters: strided views defeat the matrix kernels."""
    return [
        p.clone(memory_format=torch.contiguous_format).view(len(W), *s)
        for p, s in zip(parts_of(model, W.detach()), model.shapes, strict=True)
    ]


def join_rows(tensors: Iterable[Tensor], C: int) -> Tensor:
    """Rows ``[C, D]`` from tensors ``[C, ...]``."""
    return torch.cat([t.reshape(C, -1) for t in tensors], dim=1)


def write_rows(model: Model, W: Tensor, tensors: Iterable[Tensor]) -> None:
    """Copy parameters back into the rows."""
    for part, tensor in zip(parts_of(model, W), tensors, strict=True):
        part.copy_(tensor.reshape(len(W), -1))


class Mean:
    """Each peer's loss, averaged over the steps in which it had samples."""

    def __init__(self, C: int) -> None:
        self.total = torch.zeros(C)
        self.steps = torch.zeros(C)

    def add(self, losses: Tensor, weight: Tensor | None) -> None:
        """One step's losses ``[C]``."""
        self.total += losses
        if weight is None:
            self.steps += 1
        else:
            self.steps += weight.sum(-1) > 0

    def value(self) -> Tensor:
        """The means ``[C]``; 0 for a peer that never had a sample."""
        return self.total / self.steps.clamp_min(1)


def blocks(count: int, floats: int) -> list[int]:
    """Sizes of the steps in which to evaluate ``count`` samples, each costing so many floats a layer."""
    step = max(16, BLOCK // max(1, floats))
    return [min(step, count - i) for i in range(0, count, step)]
