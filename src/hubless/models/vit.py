"""A small vision transformer: patches, a class token, positions, and room for prompts (arXiv 2010.11929, section 3.1).

Written in operations that map over peers. Normalisation comes before attention and before the two-layer network of
twice the width; with the defaults and ten classes it has 60,730 parameters on images of 28 x 28.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hubless.errors import ConfigError
from hubless.models.tuning import adapted, low_rank, prompted
from hubless.models.zoo import Architecture, Block
from hubless.options import Count, Whole
from hubless.parts import part

WIDE = 2  # the hidden layer of a block, as a multiple of the width


class MiniViT(nn.Module):
    """Images ``[B, channels, H, W]`` to logits ``[B, outputs]``, read from the class token behind the last block.

    prompt: tokens ``[P, width]`` that stand between class token and patches and have no position; None: there are none
    """

    prompt: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], outputs: int, patch: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.patch = patch
        self.token = nn.Linear(channels * patch * patch, width)
        self.cls = nn.Parameter(0.02 * torch.randn(1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1 + (height // patch) * (across // patch), width))
        self.blocks = nn.ModuleList(Block(width, heads, WIDE, causal=False) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)
        self.prompt = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, outputs]``."""
        h = self.token(self.patches(x))
        cls = self.cls.expand(len(x), 1, -1)
        h = torch.cat([cls, h], dim=1) + self.place
        if self.prompt is not None:
            prompt = self.prompt.expand(len(x), *self.prompt.shape)
            h = torch.cat([h[:, :1], prompt, h[:, 1:]], dim=1)
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h)[:, 0])
        return logits

    def patches(self, x: Tensor) -> Tensor:
        """Images as rows of patches ``[B, tokens, channels * patch * patch]``, in reading order."""
        batch, channels, height, across = x.shape
        p = self.patch
        cut = x.reshape(batch, channels, height // p, p, across // p, p).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(batch, (height // p) * (across // p), channels * p * p)

    def extra_repr(self) -> str:
        """What the layers do not show."""
        return f"patch={self.patch}, heads={self.blocks[0].heads}, tokens={len(self.place)}"


@part("model", "mini-vit")
def mini_vit(
    patch: Count = 7,
    width: Count = 48,
    layers: Count = 3,
    heads: Count = 4,
    prompt: Whole = 0,
    adapter: Whole = 0,
    lora: Whole = 0,
) -> Architecture:
    """A small vision transformer; with prompt tokens, adapters of a width, or LoRA of a rank where these are not 0."""
    if width % heads:
        raise ConfigError(f"model: width {width} is no multiple of {heads} heads")

    def vit(shape: tuple[int, ...], outputs: int) -> nn.Module:
        if len(shape) != 3 or shape[1] % patch or shape[2] % patch:
            raise ConfigError(
                f"model: mini-vit takes images [channels, height, width] that patches of {patch} x {patch} fill, not"
                f" samples of shape {shape}; give another patch, as in mini-vit:{_patch(shape)}"
            )
        return MiniViT(shape, outputs, patch, width, layers, heads)

    build: Architecture = vit
    if prompt:
        build = prompted(build, prompt)
    if adapter:
        build = adapted(build, adapter)
    if lora:
        build = low_rank(build, lora)
    return build


def _patch(shape: tuple[int, ...]) -> int:
    """A patch that fills such images, of about a quarter of their height."""
    sides = [side for side in range(1, shape[-1] + 1) if not any(length % side for length in shape[-2:])]
    return min(sides, key=lambda side: abs(4 * side - shape[-1])) if len(shape) == 3 else 1
