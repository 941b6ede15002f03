"""Small convolutional networks of a whole chunk as one network: convolutions in groups, images channels-last.

Peers stand side by side in the channel dimension, ``[B, C * channels, H, W]``, and in the first dimension of rows,
``[C, B, features]``. Mapped convolutions (``vmap``) are slower than a plain loop; grouped ones are faster while the
images are small. A maximum is taken before the ReLU that precedes it, on a quarter of the values: the values are the
same, and so are the gradients, because where the maximum is not positive the ReLU lets nothing through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its name in the field)

from hubless.learn import keys
from hubless.learn.context import Batch, State
from hubless.learn.kernels.base import (
    Mean,
    buffers_of,
    chunk_losses,
    join_rows,
    mean_loss,
    module_name,
    moved,
    split_rows,
    write_rows,
)
from hubless.learn.kernels.layers import Layer, UnknownLayerError, layers
from hubless.learn.model import Model

FRESH = ("conv", "maxpool", "linear")  # their outputs are not needed for their gradients, so a ReLU may overwrite them
SAMPLES = 256  # samples times peers of one evaluation step


class Value(NamedTuple):
    """What a layer gives: images ``[B, C * channels, H, W]``, or each peer's own tensor ``[C, B, ...]``."""

    data: Tensor
    images: bool


def pool_first(chain: list[Layer]) -> list[Layer]:
    """Swap every ReLU that only a maximum reads with that maximum."""
    users = Counter(i for layer in chain for i in layer.inputs)
    chain = list(chain)
    for i, (first, second) in enumerate(pairwise(chain)):
        if first.op == "relu" and second.op == "maxpool" and second.inputs == (i,) and users[i] == 1:
            chain[i], chain[i + 1] = replace(second, inputs=first.inputs), replace(first, inputs=(i,))
    return chain


class Network:
    """The forward of C peers at once, from named parameters and buffers ``[C, ...]``."""

    def __init__(self, model: Model) -> None:
        self.chain = pool_first(layers(model))
        self.users = Counter(i for layer in self.chain for i in layer.inputs)
        if any(layer.op == "linear" for layer in self.chain[:1]):
            raise UnknownLayerError("it begins with no image")
        if not any(layer.op == "conv" for layer in self.chain):
            raise UnknownLayerError("it has no convolution")

    def __call__(self, x: Tensor, tensors: dict[str, Tensor], C: int, train: bool) -> Tensor:
        """Outputs ``[C, B, ...]`` for ``x [C, B, ...]``; buffers among the tensors move on in training."""
        values: list[Value] = []
        for layer in self.chain:
            inputs = [values[i] if i >= 0 else Value(x, False) for i in layer.inputs]
            values.append(self._apply(layer, inputs, tensors, C, train))
        return _rows(values[-1], C)

    def _apply(self, layer: Layer, inputs: list[Value], tensors: dict[str, Tensor], C: int, train: bool) -> Value:
        value = inputs[0]
        own = {n: tensors[f"{layer.name}.{n}"] for n in _names(layer) if f"{layer.name}.{n}" in tensors}
        match layer.op:
            case "identity":
                return value
            case "relu" if self._fresh(layer):
                return value._replace(data=torch.relu_(value.data))
            case "relu" | "tanh" | "sigmoid":
                return value._replace(data=getattr(torch, layer.op)(value.data))
            case "gelu":
                return value._replace(data=F.gelu(value.data))
            case "add":
                if value.images != inputs[1].images:
                    inputs = [Value(_images(v, C), True) for v in inputs]
                return Value(inputs[0].data + inputs[1].data, inputs[0].images)
            case "flatten":
                return Value(_rows(value, C).flatten(2), False)
            case "linear":
                return Value(_linear(_rows(value, C), own), False)
            case "dropout":
                return self._dropout(layer, value, own, C) if train else value
        if value.data.dim() == 3:
            return Value(_rows(Value(self._image_layer(layer, _images(value, C), own, C, train), True), C), False)
        return Value(self._image_layer(layer, _images(value, C), own, C, train), True)

    def _image_layer(self, layer: Layer, h: Tensor, own: dict[str, Tensor], C: int, train: bool) -> Tensor:
        module, flat = layer.module, {n: t.flatten(0, 1) if t.dim() > 1 else t for n, t in own.items()}
        weight, bias = flat.get("weight"), flat.get("bias")
        if layer.apply is not None:
            pooled: Tensor = layer.apply(h)
            return pooled
        match module:
            case nn.Conv2d():
                assert weight is not None
                settings = (module.stride, module.padding, module.dilation, module.groups * C)
                return F.conv2d(h, weight, bias, *settings)  # type: ignore[arg-type]
            case nn.GroupNorm():
                return F.group_norm(h, module.num_groups * C, weight, bias, module.eps)
            case nn.BatchNorm2d():
                if train:
                    own["num_batches_tracked"].add_(1)
                mean, var = flat["running_mean"], flat["running_var"]
                return F.batch_norm(h, mean, var, weight, bias, train, module.momentum or 0.0, module.eps)
        raise AssertionError(layer.op)

    def _fresh(self, layer: Layer) -> bool:
        (source,) = layer.inputs
        return source >= 0 and self.users[source] == 1 and self.chain[source].op in FRESH

    @staticmethod
    def _dropout(layer: Layer, value: Value, own: dict[str, Tensor], C: int) -> Value:
        p = getattr(layer.module, "p", 0.0)
        if p == 0:
            return value
        own["key"].add_(1)
        rows = _rows(value, C)
        keep = Value(keys.uniform(own["key"], tuple(rows.shape[1:])) >= p, False)
        mask = _images(keep, C) if value.images else keep.data
        return value._replace(data=value.data * mask / (1 - p))


def _names(layer: Layer) -> tuple[str, ...]:
    found = layer.module
    return () if found is None else tuple(n for n, _ in (*found.named_parameters(), *found.named_buffers()))


def _images(value: Value, C: int) -> Tensor:
    if value.images:
        return value.data
    joined = value.data.transpose(0, 1).flatten(1, 2)
    return joined.contiguous(memory_format=torch.channels_last) if joined.dim() == 4 else joined


def _rows(value: Value, C: int) -> Tensor:
    return (
        value.data.view(-1, C, value.data.shape[1] // C, *value.data.shape[2:]).transpose(0, 1)
        if value.images
        else value.data
    )


def _linear(h: Tensor, own: dict[str, Tensor]) -> Tensor:
    C, shape = h.shape[0], h.shape[1:-1]
    h, weight = h.reshape(C, -1, h.shape[-1]), own["weight"].mT
    out = torch.baddbmm(own["bias"].unsqueeze(1), h, weight) if "bias" in own else torch.bmm(h, weight)
    return out.view(C, *shape, -1)


class Stacked:
    """One network for the chunk, with autograd. Raises UnknownLayerError for a model it cannot rewrite."""

    name: ClassVar[str] = "stacked"

    def __init__(self, model: Model) -> None:
        self.model = model
        self.network = Network(model)

    def _run(self, ps: list[Tensor], bs: list[Tensor], x: Tensor, train: bool) -> Tensor:
        tensors = dict(zip(self.model.names, ps, strict=True))
        tensors |= dict(zip(map(module_name, self.model.buffers), bs, strict=True))
        return self.network(x, tensors, len(ps[0]), train)

    def _losses(self, ps: list[Tensor], bs: list[Tensor], batch: Batch, train: bool) -> Tensor:
        out = self._run(ps, bs, batch.x, train)
        return mean_loss(chunk_losses(self.model.loss, out, batch.y), batch.weight)

    def _gradients(self, ps: list[Tensor], S: State, batch: Batch) -> tuple[list[Tensor], State, Tensor]:
        before = buffers_of(self.model, S, len(ps[0]))
        after = [b.clone(memory_format=torch.contiguous_format) for b in before]
        with torch.enable_grad():
            losses = self._losses(ps, after, batch, train=True)
            found = torch.autograd.grad(losses.sum(), ps, allow_unused=True, materialize_grads=True)
        return list(found), moved(self.model, S, before, after, batch.weight), losses.detach()

    def grad(self, W: Tensor, S: State, batch: Batch) -> tuple[Tensor, State, Tensor]:
        """See ``Kernel.grad``."""
        found, S, losses = self._gradients(_free(split_rows(self.model, W)), S, batch)
        return join_rows(found, len(W)), S, losses

    def input_grad(self, W: Tensor, S: State, batch: Batch) -> Tensor:
        """See ``Kernel.input_grad``."""
        ps, bs = split_rows(self.model, W), buffers_of(self.model, S, len(W))
        with torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            return torch.autograd.grad(self._losses(ps, bs, batch._replace(x=x), train=False).sum(), x)[0]

    def epoch(
        self, W: Tensor, S: State, batches: Iterable[Batch], lr: float, out: Tensor | None = None
    ) -> tuple[State, Tensor]:
        """See ``Kernel.epoch``."""
        ps, mean = _free(split_rows(self.model, W)), Mean(len(W))
        for batch in batches:
            found, S, losses = self._gradients(ps, S, batch)
            with torch.no_grad():
                torch._foreach_add_(ps, found, alpha=-lr)
            mean.add(losses, batch.weight)
        with torch.no_grad():
            write_rows(self.model, W if out is None else out, ps)
        return S, mean.value()

    @torch.no_grad()
    def forward(self, W: Tensor, S: State, x: Tensor, shared: bool = True) -> Tensor:
        """See ``Kernel.forward``."""
        C = len(W)
        ps, bs = split_rows(self.model, W), buffers_of(self.model, S, C)
        x = x.expand(C, *x.shape) if shared else x
        step = max(16, SAMPLES // C)
        sizes = [min(step, x.shape[1] - i) for i in range(0, x.shape[1], step)]
        return torch.cat([self._run(ps, bs, part, train=False) for part in x.split_with_sizes(sizes, dim=1)], dim=1)


def _free(ps: list[Tensor]) -> list[Tensor]:
    return [p.requires_grad_() for p in ps]
