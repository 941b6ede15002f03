"""Small networks, by name. Each is called with the shape of one sample and the number of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.parts import part

Architecture = Callable[[tuple[int, ...], int], nn.Module]


def _images(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ConfigError(f"model: {name} takes images [channels, height, width], not samples of shape {shape}")
    return shape


@part("model", "mlp")
def mlp(*hidden: int) -> Architecture:
    """Fully connected with ReLU; ``mlp:64`` has one hidden layer of 64, ``mlp:128:64`` two; ``mlp`` is ``mlp:64``."""
    widths = hidden or (64,)
    if min(widths) < 1:
        raise ConfigError(f"model: mlp layers must be at least 1 wide, not {list(widths)}")

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        before = math.prod(shape)
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        return nn.Sequential(*layers, nn.Linear(before, outputs))

    return build


@part("model", "2nn")
def two_nn() -> Architecture:
    """McMahan et al.'s 2NN (arXiv 1602.05629, section 3): two hidden layers of 200 units."""
    return mlp(200, 200)


@part("model", "softmax")
def softmax(start: Literal["random", "zero"] = "random") -> Architecture:
    """Softmax (or linear) regression: convex; ``softmax:zero`` starts with all parameters at zero."""

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        layer = nn.Linear(math.prod(shape), outputs)
        if start == "zero":
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(nn.Flatten(), layer)

    return build


def _convolutions(name: str, first: int, second: int, width: int, padding: int) -> Architecture:
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, across = _images(name, shape)
        trunk = nn.Sequential(
            nn.Conv2d(channels, first, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        sizes = [((side - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2 for side in (height, across)]
        if min(sizes) < 1:
            raise ConfigError(f"model: {name} needs larger images than {height} x {across}")
        return nn.Sequential(
            *trunk, nn.Linear(second * sizes[0] * sizes[1], width), nn.ReLU(), nn.Linear(width, outputs)
        )

    return build


@part("model", "cnn")
def cnn() -> Architecture:
    """Two 5x5 convolutions (16, 32) without padding, pooling, and 128 units: 80k parameters on MNIST."""
    return _convolutions("cnn", 16, 32, 128, 0)


@part("model", "mcmahan-cnn")
def mcmahan_cnn() -> Architecture:
    """McMahan et al.'s CNN (arXiv 1602.05629, section 3): 5x5 convolutions of 32 and 64, then 512 units: 1.66M."""
    return _convolutions("mcmahan-cnn", 32, 64, 512, 2)


@part("model", "lenet")
def lenet() -> Architecture:
    """LeNet-5 with ReLU and max pooling: convolutions of 6 and 16, then 120 and 84 units."""

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, across = _images("lenet", shape)
        sizes = [(side // 2 - 4) // 2 for side in (height, across)]
        if min(sizes) < 1:
            raise ConfigError(f"model: lenet needs larger images than {height} x {across}")
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * sizes[0] * sizes[1], 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, outputs),
        )

    return build


@part("model", "cnn-bn")
def cnn_bn() -> Architecture:
    """A small CNN with BatchNorm, whose statistics every peer keeps for itself between exchanges."""

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        channels, height, across = _images("cnn-bn", shape)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * (height // 2) * (across // 2), outputs),
        )

    return build


class ByteTransformer(nn.Module):
    """A causal transformer over bytes: tokens ``[B, L]`` to next-byte logits ``[B, L, V]``."""

    def __init__(self, length: int, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next byte at every position."""
        h = self.token(x) + self.place(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits


class Block(nn.Module):
    """Pre-norm self-attention and a two-layer network, written in operations that map over peers.

    wide:   its hidden layer, as a multiple of the width
    causal: whether a token sees only those before it
    """

    def __init__(self, width: int, heads: int, wide: int = 4, *, causal: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.before = nn.LayerNorm(width)
        self.mixer = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.after = nn.LayerNorm(width)
        self.wide = nn.Linear(width, wide * width)
        self.narrow = nn.Linear(wide * width, width)

    def forward(self, h: Tensor) -> Tensor:
        """``[B, L, width]`` to the same shape."""
        batch, length, width = h.shape
        q, k, v = (
            part.reshape(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.mixer(self.before(h)).chunk(3, dim=-1)
        )
        score = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            score = score + torch.ones(length, length, device=h.device).triu(1) * -1e9
        mixed = (torch.softmax(score, dim=-1) @ v).transpose(1, 2).reshape(batch, length, width)
        h = h + self.out(mixed)
        moved: Tensor = h + self.narrow(torch.relu(self.wide(self.after(h))))
        return moved


@part("model", "byte-transformer")
def byte_transformer(width: int = 32, layers: int = 1, heads: int = 2) -> Architecture:
    """A small causal transformer over bytes, for language modelling."""
    if width % heads:
        raise ConfigError(f"model: width {width} is no multiple of {heads} heads")
    return lambda shape, outputs: ByteTransformer(shape[0], outputs, width, layers, heads)
