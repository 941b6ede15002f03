"""Small trainable additions to a network: adapters, low-rank updates and prompts.

Each takes an architecture and gives one. Layers keep their names, so that pre-trained values still find them, and
what is added has ``adapter``, ``lora`` or ``prompt`` in its name, by which masks find it. A network with additions
starts out as the one without, but for prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (its name in the field)

from hubless.errors import ConfigError
from hubless.models.zoo import Architecture

NETWORK = ("*narrow",)  # the layer that ends a transformer block's two-layer network
ATTENTION = ("*mixer",)  # its queries, keys and values


class Adapted(nn.Linear):
    """A linear layer with a bottleneck behind it: ``y = W x + b``, ``y + U relu(D y)`` (arXiv 1902.00751, section 2.1).

    ``U [outputs, width]`` and both biases start at zero.
    """

    def __init__(self, layer: nn.Linear, width: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        self.adapter = nn.ModuleDict(
            {"down": nn.Linear(layer.out_features, width), "up": nn.Linear(width, layer.out_features)}
        )
        for zero in (self.adapter["down"].bias, self.adapter["up"].weight, self.adapter["up"].bias):
            assert isinstance(zero, nn.Parameter)
            nn.init.zeros_(zero)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        y = super().forward(input)
        added: Tensor = y + self.adapter["up"](torch.relu(self.adapter["down"](y)))
        return added


class LowRank(nn.Linear):
    """A linear layer ``(W + scale B A) x + b`` (LoRA, arXiv 2106.09685, section 4.1).

    A: ``lora_a [rank, inputs]``, random; B: ``lora_b [outputs, rank]``, zero at first
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.load_state_dict(layer.state_dict())
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, layer.in_features))
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return super().forward(input) + self.scale * F.linear(F.linear(input, self.lora_a), self.lora_b)

    def extra_repr(self) -> str:
        """With rank and scale."""
        return f"{super().extra_repr()}, rank={len(self.lora_a)}, scale={self.scale:g}"


def adapted(architecture: Architecture, width: int, layers: Sequence[str] = NETWORK) -> Architecture:
    """The architecture with a bottleneck of ``width`` behind its linear layers of these names (``*`` for any text)."""
    if width < 1:
        raise ConfigError(f"model: adapter = {width}: must be at least 1")
    return _replaced(architecture, layers, lambda layer: Adapted(layer, width), "adapter")


def low_rank(
    architecture: Architecture, rank: int, layers: Sequence[str] = ATTENTION, scale: float = 1.0
) -> Architecture:
    """The architecture with a low-rank update of its linear layers of these names (``*`` for any text)."""
    if rank < 1:
        raise ConfigError(f"model: lora = {rank}: must be at least 1")
    return _replaced(architecture, layers, lambda layer: LowRank(layer, rank, scale), "lora")


def prompted(architecture: Architecture, tokens: int) -> Architecture:
    """The architecture with prompt tokens, for networks that have room for them: an attribute ``prompt``.

    They start uniform within ``sqrt(6 / (inputs of a patch + width))`` (arXiv 2203.12119, its code).
    """
    if tokens < 1:
        raise ConfigError(f"model: prompt = {tokens}: must be at least 1")

    @wraps(architecture)
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = architecture(shape, outputs)
        token = getattr(module, "token", None)
        if not hasattr(module, "prompt") or not isinstance(token, nn.Linear):
            raise ConfigError(f"model: {type(module).__name__} takes no prompt; use mini-vit")
        bound = math.sqrt(6 / (token.in_features + token.out_features))
        module.prompt = nn.Parameter(torch.empty(tokens, token.out_features).uniform_(-bound, bound))
        return module

    return build


def _replaced(
    architecture: Architecture, layers: Sequence[str], change: Callable[[nn.Linear], nn.Linear], what: str
) -> Architecture:
    @wraps(architecture)
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = architecture(shape, outputs)
        found = [
            (name, layer)
            for name, layer in module.named_modules()
            if type(layer) is nn.Linear and any(fnmatchcase(name, pattern) for pattern in layers)
        ]
        if not found:
            raise ConfigError(
                f"model: {type(module).__name__} has no plain linear layer {' or '.join(layers)} ({what})"
            )
        for name, layer in found:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, change(layer))
        return module

    return build
