"""What an expert can say of its parameters beside their values: Fisher information, Gram matrices of inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from hubless.learn.context import Batch, State
from hubless.learn.model import BUFFER, Model

CHUNK = 64  # samples whose gradients are in hand at a time


def information(model: Model, w: Tensor, s: State, data: Batch) -> dict[str, Tensor]:
    """The empirical Fisher information of every parameter: the mean over samples of the squared gradient of the loss.

    With the labels that the samples have, not labels drawn from the model (arXiv 2111.09832, section 3.2, has both).
    """
    fixed = _fixed(model, s)
    module = model.module.eval()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return model.loss(functional_call(module, {**parameters, **fixed}, (x[None],)), y[None])[0]

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    parameters = {name: value.detach() for name, value in model.unflatten(w).items()}
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for x, y in zip(torch.split(data.x, CHUNK), torch.split(data.y, CHUNK), strict=True):
        for name, value in each(parameters, x, y).items():
            total[name] += value.square().sum(0)
    return {name: value / len(data.y) for name, value in total.items()}


def gram_matrices(model: Model, w: Tensor, s: State, data: Batch) -> dict[str, Tensor]:
    """``X^T X / n`` of the inputs of every linear layer, by the name of its weight ``[out, in]``: ``[in, in]``."""
    found: dict[str, Tensor] = {}
    module = model.copy().eval()

    def look(name: str) -> object:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            found[name] = found.get(name, 0) + x.T @ x / len(data.y)

        return hook

    for name, layer in module.named_modules():
        weight = f"{name}.weight".lstrip(".")
        if isinstance(layer, nn.Linear) and weight in model.names:
            layer.register_forward_hook(look(weight))  # type: ignore[arg-type]
    with torch.no_grad():
        for x in torch.split(data.x, CHUNK):
            functional_call(module, {**model.unflatten(w), **_fixed(model, s)}, (x,))
    return found


def _fixed(model: Model, s: State) -> dict[str, Tensor]:
    """Frozen parameters and buffers, as a module names them."""
    return {**model.frozen, **{n.removeprefix(BUFFER): v for n, v in s.items() if n in model.buffers}}
