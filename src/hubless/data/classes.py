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
    if not have:
        raise ConfigError(f"{where}: {data.name} has no classes")
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
    """The samples of some classes; labels, and the width of a model's output, stay what they are."""
    if kept == tuple(range(len(data.classes))):
        return data
    if data.task != "classification":
        raise ConfigError(f"classes: {data.name} has none")
    train, test = np.isin(data.y, kept), np.isin(data.test_y, kept)
    return replace(
        data, name=f"{data.name} {spoken(kept)}", x=data.x[train], y=data.y[train],
        test_x=data.test_x[test], test_y=data.test_y[test],
    )  # fmt: skip


def spoken(kept: Sequence[int]) -> str:
    """Labels as people write them: the inverse of ``labels``."""
    if len(kept) > 1 and list(kept) == list(range(kept[0], kept[-1] + 1)):
        return f"{kept[0]}-{kept[-1]}"
    return ",".join(map(str, kept))
