"""Duplicates in image sets: found by two hashes, within a set or across peers that show only digests.

Public image sets are full of copies, which leak test images into training when a set is split first and
cleaned later (FecalFed, arXiv 2604.00559). An image is dropped when its exact digest was seen before, or when
its difference hash is near that of an image already kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError

Mask = NDArray[np.bool_]
BLOCK = 512


@dataclass(frozen=True, eq=False)
class Digests:
    """What a peer shows of its images: SHA-256 [M, 32] and packed difference hashes [M, size * size / 8], bytes."""

    exact: NDArray[np.uint8]
    near: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.exact)


@dataclass(frozen=True)
class DualHash:
    """Exact digest, then a difference hash: is a pixel brighter than its left neighbour, after resizing?

    threshold: images whose hashes differ in at most so many bits are the same; 4 for clothes, 2 for digits
    size:      the image is averaged to size x (size + 1), which gives size * size bits; 8 deletes unique images
    """

    threshold: int = 4
    size: int = 16

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ConfigError(f"dual hash: size = {self.size} must be at least 2")
        if not 0 <= self.threshold < self.size**2:
            raise ConfigError(f"dual hash: threshold = {self.threshold} must be 0 to {self.size**2 - 1} bits")

    def digests(self, images: NDArray[Any]) -> Digests:
        """Both hashes of grey images [M, H, W] or [M, 1, H, W]."""
        grey = _grey(images)
        exact = [np.frombuffer(hashlib.sha256(image.tobytes()).digest(), np.uint8) for image in grey]
        return Digests(np.array(exact, np.uint8).reshape(-1, 32), np.packbits(self._bits(grey), axis=1))

    def keep(self, images: NDArray[Any]) -> Mask:
        """Which images to keep [M]: of duplicates, the first."""
        return self._first(self.digests(images))

    def across(self, digests: Sequence[Digests]) -> list[Mask]:
        """Which images each peer keeps: of duplicates, that of the lowest peer, and there the first."""
        if not digests:
            return []
        together = Digests(
            np.concatenate([d.exact for d in digests]),
            np.concatenate([d.near for d in digests]),
        )
        return np.split(self._first(together), np.cumsum([len(d) for d in digests])[:-1])

    def _bits(self, grey: NDArray[Any]) -> Mask:
        down, across = _area(grey.shape[1], self.size), _area(grey.shape[2], self.size + 1)
        small = down @ grey.astype(np.float64) @ across.T
        # rounding must not decide between equal neighbours: the copy's rounding is another
        least = 1e-6 * np.abs(small).max(axis=(1, 2), keepdims=True)
        bits: Mask = small[:, :, 1:] - small[:, :, :-1] > least
        return bits.reshape(len(grey), self.size**2)

    def _first(self, digests: Digests) -> Mask:
        keep = np.zeros(len(digests), bool)
        keep[np.unique(digests.exact, axis=0, return_index=True)[1]] = True  # index of the first of each
        rows = np.flatnonzero(keep)
        signs = np.unpackbits(digests.near[rows], axis=1).astype(np.float32) * 2 - 1
        limit = signs.shape[1] - 2 * self.threshold  # product of sign vectors = bits - 2 * distance
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            alike = signs[start : start + BLOCK] @ signs[: start + BLOCK].T >= limit
            for place in np.flatnonzero(alike.sum(axis=1) > 1):  # an image is always like itself
                before = rows[np.flatnonzero(alike[place, : start + place])]
                keep[block[place]] = not keep[before].any()
        return keep


def inject(
    images: NDArray[Any], y: NDArray[Any], share: float, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """A dirty pool: the images with copies of random ones, until ``share`` of the pool are copies; shuffled.

    Every second copy is exact; the others are darkened by a factor from U(0.9, 1). Gives images, targets and
    the number of the original of every row.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"inject: share = {share} must be at least 0 and below 1")
    copies = rng.integers(len(images), size=round(len(images) * share / (1 - share)))
    factor = np.where(np.arange(len(copies)) % 2, rng.uniform(0.9, 1, len(copies)), 1)
    dark = images[copies] * factor.reshape(-1, *[1] * (images.ndim - 1))
    origin = np.concatenate([np.arange(len(images)), copies])
    order = rng.permutation(len(origin))
    pool = np.concatenate([images, dark.astype(images.dtype)])
    return pool[order], y[origin][order], origin[order]


def _grey(images: NDArray[Any]) -> NDArray[Any]:
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise ConfigError(f"dual hash: needs grey images [M, H, W] or [M, 1, H, W], not shape {images.shape}")
    return np.ascontiguousarray(images)


def _area(pixels: int, cells: int) -> NDArray[np.float64]:
    """The matrix [cells, pixels] that averages a row of pixels over equal cells, cutting pixels where needed."""
    edges = np.linspace(0, pixels, cells + 1)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(pixels)
    overlap = np.minimum(stop, pixel + 1) - np.maximum(start, pixel)
    shares: NDArray[np.float64] = np.clip(overlap, 0, None) * (cells / pixels)
    return shares
