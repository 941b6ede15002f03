"""What a rule may want to know of a model beside its tensors: Fisher information, and Gram matrices of inputs.

Both come from the model and some of its own data, and are tensors by name of the parameter that they are about, so that
``safetensors.torch.save_file`` makes a file for ``hubless merge --statistics``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.merging.rule import seeded


def fishers(module: nn.Module, inputs: Iterable[Tensor], *, seed: int = 0) -> dict[str, Tensor]:
    """The diagonal of the Fisher information, of each trainable parameter's shape (arXiv 2111.09832, section 2.2).

    ``F = mean over samples of E_y (d log p(y | x) / d theta)^2``. Of logits ``[B, C]`` the expectation is over all
    classes, as in the source; of a language model's ``[B, L, V]`` it is one draw of y from the model.

    inputs: batches ``[B, ...]`` for the module
    Raises ConfigError where there are no samples or outputs of another kind.
    """
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    count = 0
    before = module.training
    module.eval()
    for x in inputs:
        for one in x[:, None]:
            logs = _logits(module(one)).log_softmax(-1)[0]
            for share, log in _answers(logs, seed, count):
                slopes = torch.autograd.grad(log, list(parameters.values()), retain_graph=True, allow_unused=True)
                for name, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        total[name] += share * slope.square()
            count += 1
    module.train(before)
    if not count:
        raise ConfigError("statistics: there are no samples")
    return {name: value / count for name, value in total.items()}


def _answers(logs: Tensor, seed: int, place: int) -> Iterable[tuple[float, Tensor]]:
    """Chance and log-likelihood of the answers to one sample, of log-probabilities ``[C]`` or ``[L, V]``."""
    if logs.dim() == 1:
        return [(float(log.detach().exp()), log) for log in logs]
    if logs.dim() != 2:
        raise ConfigError(f"statistics: outputs of shape {tuple(logs.shape)} a sample are no logits [C] or [L, V]")
    draws = seeded(seed, "answers")(place, len(logs)).to(logs.device)[:, None]
    drawn = (logs.detach().exp().cumsum(-1) < draws).sum(-1, keepdim=True).clamp_max(logs.shape[-1] - 1)
    return [(1.0, logs.gather(-1, drawn).sum())]


def _logits(out: Any) -> Tensor:
    logits: Tensor = getattr(out, "logits", out)
    return logits


def grams(module: nn.Module, inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """``X^T X / samples`` ``[in, in]`` of the inputs X of linear layers, by weight (arXiv 2212.09849, section 3).

    inputs: batches ``[B, ...]`` for the module
    Raises ConfigError where there are no samples or no linear layers.
    """
    total: dict[str, Tensor] = {}

    def listen(name: str) -> Any:
        def hear(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach().flatten(0, -2).float()
            total[name] = total.get(name, 0) + x.T @ x

        return hear

    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    hooks = [layer.register_forward_pre_hook(listen(f"{name}.weight".lstrip("."))) for name, layer in layers.items()]
    before, count = module.training, 0
    module.eval()
    try:
        with torch.no_grad():
            for x in inputs:
                module(x)
                count += len(x)
    finally:
        module.train(before)
        for hook in hooks:
            hook.remove()
    if not total:
        raise ConfigError("statistics: there are no samples, or no linear layer has seen them")
    return {name: value / count for name, value in total.items()}
