"""The data as bytes in one file a set, so that environments without hubless read the same samples."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from anchors.work import DATA
from hubless.parts import make


def pixels(name: str) -> None:
    """Write ``.data/NAME.npz``: images [n, 1, side, side] and labels [n] as bytes, and those of the test."""
    path = DATA / f"{name}.npz"
    if path.exists():
        return
    data = make("data", name)
    DATA.mkdir(exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")
    labels, test_labels = data.y.astype(np.uint8), data.test_y.astype(np.uint8)
    np.savez(part, x=_bytes(data.x), y=labels, x_test=_bytes(data.test_x), y_test=test_labels)
    part.replace(path)


def _bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    return (images * 255).round().astype(np.uint8)
