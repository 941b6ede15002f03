"""Classification sets of the Hugging Face hub, when the package ``datasets`` is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubless.data.dataset import Dataset
from hubless.errors import ConfigError, DataError

LABELS = ("label", "labels", "fine_label", "target", "class", "y")


def load(name: str) -> Dataset:
    """The set of that name; images become [M, channels, H, W] in [0, 1], numbers stay as they are."""
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"hf:{name}: needs the package 'datasets': pip install hubless[hf]") from None
    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"hf:{name}: cannot be loaded here ({type(error).__name__}): check the name and the connection, "
            f"or load it once where there is one: python -c \"import datasets; datasets.load_dataset('{name}')\""
        ) from None
    return from_splits(splits, f"hf:{name}")


def from_splits(splits: Mapping[str, Any], name: str) -> Dataset:
    """A data set from the splits that ``load_dataset`` gives; a fifth is held out where there is no test split."""
    train = splits["train"] if "train" in splits else next(iter(splits.values()))
    label = next((column for column in LABELS if column in train.column_names), None)
    if label is None:
        raise ConfigError(f"{name}: no column of labels ({', '.join(LABELS)}) among {', '.join(train.column_names)}")
    held = next((splits[split] for split in ("test", "validation") if split in splits), None)
    classes = tuple(getattr(train.features[label], "names", ()))
    y = np.asarray(train[label][:])
    test: Any = 0.2
    if held is not None and held is not train:
        test = (_inputs(held, label, name), np.asarray(held[label][:]))
    return Dataset.of(_inputs(train, label, name), y, test=test, name=name, classes=classes)


def _inputs(split: Any, label: str, name: str) -> NDArray[Any]:
    first = split[0]
    others = [column for column in split.column_names if column != label]
    images = [column for column in others if hasattr(first[column], "convert")]
    if images:
        return _stack([_pixels(image) for image in split[images[0]]], name)
    arrays = [column for column in others if isinstance(first[column], list)]
    if arrays:
        return _stack([np.asarray(row) for row in split[arrays[0]]], name)
    numbers = [column for column in others if isinstance(first[column], int | float)]
    if numbers:
        return np.stack([np.asarray(split[column][:], np.float64) for column in numbers], axis=1)
    raise ConfigError(f"{name}: no column of images or numbers among {', '.join(others)}")


def _pixels(image: Any) -> NDArray[np.float32]:
    grey = image.mode in ("1", "L", "I", "I;16", "F")
    values = np.divide(image.convert("L" if grey else "RGB"), 255, dtype=np.float32)
    return values[None] if grey else np.moveaxis(values, -1, 0)


def _stack(rows: list[NDArray[Any]], name: str) -> NDArray[Any]:
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        raise ConfigError(
            f"{name}: inputs have {len(shapes)} different shapes ({sorted(shapes)[:2]}, ...); resize them"
        )
    return np.stack(rows)
