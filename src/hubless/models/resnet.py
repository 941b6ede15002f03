"""Residual networks for small images (arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.models.zoo import Architecture
from hubless.parts import part


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1 or before != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, before, H, W]`` to ``[B, channels, H / stride, W / stride]``."""
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(h + self.shortcut(x))


@part("model", "resnet")
def resnet(depth: int = 20, width: int = 16) -> Architecture:
    """A residual network of ``6n + 2`` layers in three stages of width, 2 width and 4 width channels; resnet:20."""
    if depth < 8 or depth % 6 != 2:
        raise ConfigError(f"model: a resnet has 8, 14, 20, 32, ... layers (6n + 2), not {depth}")
    if width < 1:
        raise ConfigError(f"model: a resnet of width {width}: must be at least 1")

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(shape) != 3:
            raise ConfigError(f"model: resnet takes images [channels, height, width], not samples of shape {shape}")
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for stage in range(3):
            for place in range(depth // 6):
                layers.append(ResidualBlock(before, width << stage, 2 if stage and not place else 1))
                before = width << stage
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))

    return build
