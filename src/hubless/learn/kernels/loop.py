"""Peers one after another with autograd: the reference, the fallback, and the choice for large models."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from hubless.learn.context import Batch, State
from hubless.learn.gate import GATE
from hubless.learn.kernels.base import buffers_of, mean_loss, module_name, moved, parts_of
from hubless.learn.model import Model

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


class Loop:
    """One peer at a time on a module of this thread; convolutions run channels-last."""

    name: ClassVar[str] = "loop"

    def __init__(self, model: Model) -> None:
        self.model = model
        self._here = threading.local()
        self._images: bool | None = None if any(isinstance(m, CONVOLUTIONS) for m in model.module.modules()) else False

    def _network(self, train: bool, x: Tensor) -> nn.Module:
        if self._images is None:
            self._images = self._last(x)
        if not hasattr(self._here, "module"):
            module = self.model.copy()
            if self._images:
                module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            found = dict(module.named_parameters())
            self._here.module = module
            self._here.parameters = [found[n] for n in self.model.names]
            self._here.frozen = {n: found[n] for n in self.model.frozen}
            for p in found.values():
                p.requires_grad_(False)
            for p in self._here.parameters:
                p.requires_grad_(True)
        for name, value in self.model.frozen.items():
            self._here.frozen[name].data = value
        module = self._here.module
        assert isinstance(module, nn.Module)
        return module.train(train)

    def _last(self, x: Tensor) -> bool:
        """Whether the network takes channels-last images ``x [B, ...]``; ``view`` in a forward does not."""
        if x.dim() != 4 or any(map(_corrupts, self.model.module.modules())):
            return False
        try:
            module = self.model.copy().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module(x[:2].contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            return False
        return True

    def _parameters(self) -> list[Tensor]:
        found: list[Tensor] = self._here.parameters
        return found

    def _load(self, module: nn.Module, w: Tensor, buffers: list[Tensor], i: int) -> None:
        with torch.no_grad():
            for p, part in zip(self._parameters(), parts_of(self.model, w), strict=True):
                p.copy_(part.view(p.shape))
        for name, value in zip(self.model.buffers, buffers, strict=True):
            owner, _, leaf = module_name(name).rpartition(".")
            module.get_submodule(owner)._buffers[leaf] = value[i].clone()

    def _save(self, module: nn.Module, buffers: list[Tensor], i: int) -> None:
        for name, value in zip(self.model.buffers, buffers, strict=True):
            value[i] = module.get_buffer(module_name(name))

    def _x(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self._images and x.dim() == 4 else x

    def _loss(self, module: nn.Module, batch: Batch, i: int) -> Tensor:
        losses = self.model.loss(module(self._x(batch.x[i])), batch.y[i])
        return mean_loss(losses, None if batch.weight is None else batch.weight[i])

    def _gradients(self, module: nn.Module, batch: Batch, i: int) -> tuple[list[Tensor], Tensor]:
        with torch.enable_grad(), GATE.running():
            loss = self._loss(module, batch, i)
            found = torch.autograd.grad(loss, self._parameters(), allow_unused=True, materialize_grads=True)
        return list(found), loss.detach()

    def grad(self, W: Tensor, S: State, batch: Batch) -> tuple[Tensor, State, Tensor]:
        """See ``Kernel.grad``."""
        module = self._network(True, batch.x[0])
        before = buffers_of(self.model, S, len(W))
        after = [b.clone() for b in before]
        G, losses = torch.empty_like(W), torch.zeros(len(W))
        for i, w in enumerate(W):
            self._load(module, w, before, i)
            found, losses[i] = self._gradients(module, batch, i)
            for part, g in zip(parts_of(self.model, G[i]), found, strict=True):
                part.view(g.shape).copy_(g)
            self._save(module, after, i)
        return G, moved(self.model, S, before, after, batch.weight), losses

    def input_grad(self, W: Tensor, S: State, batch: Batch) -> Tensor:
        """See ``Kernel.input_grad``."""
        module = self._network(False, batch.x[0])
        buffers = buffers_of(self.model, S, len(W))
        found = []
        for i, w in enumerate(W):
            self._load(module, w, buffers, i)
            x = batch.x[i].detach().requires_grad_()
            with torch.enable_grad(), GATE.running():
                loss = mean_loss(
                    self.model.loss(module(self._x(x)), batch.y[i]), None if batch.weight is None else batch.weight[i]
                )
                found.append(torch.autograd.grad(loss, x)[0])
        return torch.stack(found)

    def epoch(
        self, W: Tensor, S: State, batches: Iterable[Batch], lr: float, out: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """See ``Kernel.epoch``."""
        W = W if out is None else out.copy_(W)
        steps = list(batches)
        if not steps:
            return S, torch.zeros(len(W))
        module = self._network(True, steps[0].x[0])
        present = [None if b.weight is None else (b.weight.sum(-1) > 0).tolist() for b in steps]
        buffers = [b.clone() for b in buffers_of(self.model, S, len(W))]
        losses = torch.zeros(len(W))
        parameters = self._parameters()
        for i, w in enumerate(W):
            self._load(module, w, buffers, i)
            mine = [b for b, some in zip(steps, present, strict=True) if some is None or some[i]]
            for batch in mine:
                found, loss = self._gradients(module, batch, i)
                with torch.no_grad():
                    torch._foreach_add_(parameters, found, alpha=-lr)
                losses[i] += loss / len(mine)
            for part, p in zip(parts_of(self.model, w), parameters, strict=True):
                part.view(p.shape).copy_(p.detach())
            self._save(module, buffers, i)
        return moved(self.model, S, buffers, buffers, None), losses

    @torch.no_grad()
    def forward(self, W: Tensor, S: State, x: Tensor, shared: bool = True) -> Tensor:
        """See ``Kernel.forward``."""
        module = self._network(False, x if shared else x[0])
        buffers = buffers_of(self.model, S, len(W))
        outs = []
        for i, w in enumerate(W):
            self._load(module, w, buffers, i)
            mine = x if shared else x[i]
            steps = [min(BATCH, len(mine) - j) for j in range(0, len(mine), BATCH)]
            with GATE.running():
                outs.append(torch.cat([module(self._x(part)) for part in mine.split_with_sizes(steps)]))
        return torch.stack(outs)


BATCH = 256  # samples of one evaluation step


def _corrupts(module: nn.Module) -> bool:
    """Whether torch 2.13's channels-last gradient of a convolution writes beyond its memory: 1x1, strided, narrow."""
    if not isinstance(module, nn.Conv2d) or module.in_channels >= 8:
        return False
    return module.kernel_size == (1, 1) and module.stride != (1, 1)
