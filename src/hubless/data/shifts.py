"""Feature shift: peers that see the same kind of image differently, on top of any other partition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hubless.data.partition import Partition
from hubless.errors import ConfigError
from hubless.options import Probability
from hubless.parts import make, part


@dataclass(frozen=True)
class Shifted(Partition):
    """Deals samples as ``base`` does (a partition, or its name), and changes how a peer sees them."""

    base: Any = field(default="iid", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", make("partition", self.base))

    def deal(self, y: NDArray[Any], peers: int, rng: np.random.Generator) -> Sequence[NDArray[Any]]:
        """What the base deals."""
        base: Partition = self.base
        return base.deal(y, peers, rng)

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """As the base does."""
        return bool(self.base.needs_labels)

    @property
    def needs_inputs(self) -> bool:  # type: ignore[override]
        """As the base does."""
        return bool(self.base.needs_inputs)


@part("partition", "rotation")
@dataclass(frozen=True)
class Rotation(Shifted):
    """Peer i of N sees its images turned by i/N * degrees (Ghosh et al. 2020, rotated MNIST)."""

    degrees: float = 90.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.degrees):
            raise ConfigError(f"rotation: degrees = {self.degrees} must be finite")

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """The images [M, ..., H, W] turned counter-clockwise. Raises ConfigError for inputs that are no images."""
        x = self.base.shift(x, peer, peers)
        if x.ndim < 3:
            raise ConfigError(
                f"rotation: needs images [samples, ..., height, width], not inputs of shape {x.shape[1:]}"
            )
        return rotate(x, self.degrees * peer / peers)


@part("partition", "inversion")
@dataclass(frozen=True)
class Inversion(Shifted):
    """A share of the peers, evenly spread, sees every value v in [0, 1] as 1 - v: dark on light."""

    share: Probability = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share <= 1:
            raise ConfigError(f"inversion: share = {self.share} must be between 0 and 1")

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """The inputs, inverted where floor(share * i) steps up after peer i."""
        x = self.base.shift(x, peer, peers)
        inverted = math.floor(self.share * (peer + 1)) > math.floor(self.share * peer)
        return (1 - x).astype(x.dtype) if inverted else x


@part("partition", "domains")
@dataclass(frozen=True)
class Domains(Shifted):
    """Peers see images upright, turned by 90 degrees counter-clockwise, or inverted (v as 1 - v), in turn."""

    names: ClassVar[tuple[str, ...]] = ("upright", "turned", "inverted")

    def name(self, peer: int) -> str:
        """The domain of a peer, in a word."""
        return self.names[peer % len(self.names)]

    def shift(self, x: NDArray[Any], peer: int, peers: int) -> NDArray[Any]:
        """The images [M, ..., H, W] as this peer's domain shows them. Raises ConfigError for inputs that are none."""
        x = self.base.shift(x, peer, peers)
        if x.ndim < 3:
            raise ConfigError(f"domains: needs images [samples, ..., height, width], not inputs of shape {x.shape[1:]}")
        domain = self.name(peer)
        return rotate(x, 90) if domain == "turned" else (1 - x).astype(x.dtype) if domain == "inverted" else x


def rotate(x: NDArray[Any], degrees: float) -> NDArray[Any]:
    """Images [M, ..., H, W] turned counter-clockwise about their centre; bilinear, zeros from outside."""
    if degrees % 360 == 0:
        return x
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    down = np.arange(height)[:, None] - (height - 1) / 2
    right = np.arange(width)[None, :] - (width - 1) / 2
    from_row = (cos * down + sin * right + (height - 1) / 2).ravel()
    from_column = (cos * right - sin * down + (width - 1) / 2).ravel()
    top, left = np.floor(from_row), np.floor(from_column)
    flat = x.reshape(*x.shape[:-2], height * width)
    turned = np.zeros_like(flat)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - np.abs(from_row - row)) * (1 - np.abs(from_column - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        source = np.where(inside, row * width + column, 0).astype(int)
        turned += flat[..., source] * (weight * inside).astype(x.dtype)
    return turned.reshape(x.shape)
