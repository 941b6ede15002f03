"""How weights start."""

from __future__ import annotations

from functools import wraps

from torch import nn

from hubless.models.zoo import Architecture


def gaussian(architecture: Architecture) -> Architecture:
    """A network whose weights start from N(0, 2 / inputs) (arXiv 1502.01852, section 2.2), and its biases from 0."""

    @wraps(architecture)
    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        module = architecture(shape, outputs)
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return module

    return build
