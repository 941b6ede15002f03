"""Some classes of a classification set, as a set of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError


def labels(text: str, data: Dataset, where: str) -> tuple[int, ...]:
    """Labels of a set as people write them: ``0-4``, ``1,3,5-7``, or ``all``.

    Raises ConfigError for what is no label of the set, naming the option ``where``.
    """
    have = len(data.classes)
    if text == "all":
        return tuple(range(have))
    found: list[int] = []
    for word in text.split(","):
        if not (ends := re.fullmatch(r"(\d+)(?:-(\d+))?", word.strip())):
            raise ConfigError(f"{where} = {text!r}: must be labels such as 0-4 or 1,3,5, or all")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if not found or len(set(found)) < len(found) or max(found) >= have:
        raise ConfigError(f"{where} = {text!r}: must be different labels of {data.name}, 0 to {have - 1}")
    return tuple(found)


@lru_cache(maxsize=4)
def only(data: Dataset, kept: tuple[int, ...]) -> Dataset:
    """The samples of some classes; these are numbered anew, in the order given. All in order: the set itself."""
    if data.task != "classification":
        raise ConfigError(f"classes: {data.name} has none")
    if kept == tuple(range(len(data.classes))):
        return data
    number = np.full(len(data.classes), -1)
    number[list(kept)] = np.arange(len(kept))
    parts = [(x[number[y] >= 0], number[y][number[y] >= 0]) for x, y in ((data.x, data.y), (data.test_x, data.test_y))]
    names = tuple(data.classes[label] for label in kept)
    return replace(
        data, name=f"{data.name} {spoken(kept)}", x=parts[0][0], y=parts[0][1], test_x=parts[1][0],
        test_y=parts[1][1], classes=names,
    )  # fmt: skip


def spoken(kept: Sequence[int]) -> str:
    """Labels as people write them: the inverse of ``labels``."""
    if len(kept) > 1 and list(kept) == list(range(kept[0], kept[-1] + 1)):
        return f"{kept[0]}-{kept[-1]}"
    return ",".join(map(str, kept))
