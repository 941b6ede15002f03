"""Sums of gradients clipped sample by sample, for DP-SGD: no sample moves a peer's step by more than the bound.

Perceptrons need norms only (``Dense.clipped``). Any other network is differentiated one sample at a time, mapped over
as many as memory allows; one that cannot be mapped goes through its kernel as so many peers with one sample each.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.func import functional_call

from hubless.errors import ConfigError
from hubless.learn import keys
from hubless.learn.context import Batch, State
from hubless.learn.gate import GATE
from hubless.learn.kernels.base import Kernel, buffers_of, factors_of, join_rows, mean_loss, module_name, parts_of
from hubless.learn.kernels.dense import Dense
from hubless.learn.model import LOSSES, Dropout, Model

ROOM = 1 << 24  # floats of the gradients that are held at a time


def clipped(kernel: Kernel, W: Tensor, S: State, batch: Batch, bound: float) -> tuple[Tensor, State, Tensor]:
    """``sum_i weight_i min(1, bound / |g_i|) g_i`` of each peer ``[C, D]``, the state, and mean losses ``[C]``.

    ``g_i [D]`` is the gradient of the loss of sample i; weights are in [0, 1], and 1 where there are none. Dropout
    draws a mask a sample. No other buffer moves on: it would carry traces of samples that no noise covers.

    Raises ConfigError for a model whose samples act on each other: no sample then has a gradient of its own.
    """
    model = kernel.model
    alone(model)
    if isinstance(kernel, Dense) and model.loss in LOSSES.values():  # another loss might mix samples
        found, losses = kernel.clipped(W, batch, bound)
        return found, S, losses
    samples = _Samples(kernel)
    sums, losses = torch.zeros_like(W), torch.zeros(W.shape[:1] + batch.x.shape[1:2], device=W.device)
    after = {name: S[name].clone() for name in samples.masks if name in S}
    for i, w in enumerate(W):
        own = [b[i] for b in buffers_of(model, S, len(W))]
        for at in torch.split(torch.arange(batch.x.shape[1]), max(1, ROOM // model.size)):
            G, losses[i, at], steps = samples.gradients(w, own, batch.x[i, at], batch.y[i, at], at)
            weight = None if batch.weight is None else batch.weight[i, at]
            sums[i] += factors_of(torch.linalg.vecdot(G, G), bound, weight) @ G
        for name in after:
            after[name][i] += steps[name]
    return sums, {**S, **after}, mean_loss(losses, batch.weight)


def alone(model: Model) -> None:
    """Raise ConfigError when a sample's gradient depends on what else is in its batch."""
    if model.mixes:
        raise ConfigError(
            f"model: {model.name} has BatchNorm, which makes samples of a batch act on each other, so that no sample's"
            " part of the gradient can be clipped; use GroupNorm, or a model without"
        )


class _Samples:
    """Gradients of single samples of one model.

    masks: buffers that are keys of dropout, each with its place among the buffers
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.model = kernel, kernel.model
        inside = {name for name, module in self.model.module.named_modules() if isinstance(module, Dropout)}
        names = enumerate(self.model.buffers)
        self.masks = {name: at for at, name in names if module_name(name).rpartition(".")[0] in inside}

    def gradients(
        self, w: Tensor, buffers: list[Tensor], x: Tensor, y: Tensor, at: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Gradients ``[b, D]`` and losses ``[b]`` of the samples ``at [b]``, and by how much their mask keys moved."""
        bs = [b.expand(len(x), *b.shape).clone() for b in buffers]
        for place in self.masks.values():
            bs[place] = torch.as_tensor(keys.fold(bs[place], at))
        G, losses, after = self._mapped(w, bs, x, y) if self._maps(w, bs, x, y) else self._looped(w, bs, x, y)
        return G, losses, {name: after[place][0] - bs[place][0] for name, place in self.masks.items()}

    def _mapped(self, w: Tensor, bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        model, inside = self.model, [module_name(name) for name in self.model.buffers]
        module = model.module.train()
        # Samples are independent, so the gradient of the sum with respect to one copy of the parameters a sample holds
        # each sample's own; torch.func.grad would give the same, but imports the compiler (a second) on its first use.
        free = [
            p.view(s).expand(len(x), *s).requires_grad_() for p, s in zip(parts_of(model, w), model.shapes, strict=True)
        ]

        def one(ps: list[Tensor], bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
            held = {name: b.clone() for name, b in zip(inside, bs, strict=True)}
            out = functional_call(
                module, {**dict(zip(model.names, ps, strict=True)), **model.frozen, **held}, (x[None],)
            )
            return model.loss(out, y[None])[0], list(held.values())

        with torch.enable_grad(), GATE.running():
            losses, after = torch.vmap(one)(free, bs, x, y)
            found = torch.autograd.grad(losses.sum(), free, allow_unused=True, materialize_grads=True)
        return join_rows(found, len(x)), losses.detach(), [b.detach() for b in after]

    def _looped(self, w: Tensor, bs: list[Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        S = dict(zip(self.model.buffers, bs, strict=True))
        G, S, losses = self.kernel.grad(w.expand(len(x), -1), S, Batch(x[:, None], y[:, None]))
        return G, losses, [S[name] for name in self.model.buffers]

    def _maps(self, w: Tensor, bs: list[Tensor], x: Tensor, y: Tensor) -> bool:
        """Whether this model can be mapped without a slow substitute, which warns; asked once a model."""
        known: dict[str, bool] = self.model.__dict__
        if "_maps" not in known:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                try:
                    self._mapped(w, [b[:2] for b in bs], x[:2], y[:2])
                except RuntimeError:
                    known["_maps"] = False
                else:
                    known["_maps"] = not said
        return known["_maps"]
