"""Models on disk: a ``.safetensors`` file, a folder as transformers writes it, or a folder of a peft adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from hubless.errors import ConfigError, DataError
from hubless.merging.alike import Shapes
from hubless.merging.tensor_file import Form, TensorFile

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin", "consolidated.00.pth")
BESIDE = (".json", ".txt", ".model", ".jinja")  # what belongs to a model: its configuration, its tokenizer
PASSING = ("inference_mode", "peft_version", "auto_mapping")  # of an adapter's configuration: says nothing of its shape
Kind = Literal["file", "folder", "shards", "adapter"]


@dataclass(frozen=True, eq=False)
class Checkpoint(Mapping[str, Tensor]):
    """The tensors of one model by name; each look-up reads one.

    files: the parts that hold them, by file name
    """

    path: Path
    kind: Kind
    files: dict[str, TensorFile]

    @cached_property
    def homes(self) -> dict[str, str]:
        """The file that holds each tensor."""
        return {name: home for home, file in self.files.items() for name in file}

    @cached_property
    def forms(self) -> dict[str, Form]:
        """Type and shape of each tensor."""
        return {name: form for file in self.files.values() for name, form in file.forms.items()}

    @property
    def shapes(self) -> Shapes:
        """The shape of each tensor."""
        return {name: form.shape for name, form in self.forms.items()}

    @property
    def config(self) -> dict[str, Any]:
        """An adapter's configuration."""
        return _json(self.path / ADAPTER_CONFIG)

    @property
    def index(self) -> dict[str, Any]:
        """The index of a model in several files."""
        return _json(self.path / INDEX)

    @property
    def beside(self) -> list[Path]:
        """Small files of the folder that belong to the model: configuration, tokenizer."""
        if self.kind == "file":
            return []
        return sorted(
            path for path in self.path.iterdir() if path.suffix in BESIDE and path.name != INDEX and path.is_file()
        )

    def __getitem__(self, name: str) -> Tensor:
        return self.files[self.homes[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __len__(self) -> int:
        return len(self.homes)


def open_checkpoint(path: Path) -> Checkpoint:
    """The model at that place: a ``.safetensors`` file, a folder of transformers or peft, or the folder of a run.

    Raises DataError when there is none, or it is damaged.
    """
    if path.is_file():
        return Checkpoint(path, "file", {path.name: TensorFile(path)})
    if not path.is_dir():
        raise DataError(f"{path} is not there")
    if (path / "records.jsonl").is_file():
        return open_checkpoint(path / WEIGHTS)
    if (path / ADAPTER).is_file():
        return Checkpoint(path, "adapter", {ADAPTER: TensorFile(path / ADAPTER)})
    if (path / INDEX).is_file():
        return _sharded(path)
    if (path / WEIGHTS).is_file():
        return Checkpoint(path, "folder", {WEIGHTS: TensorFile(path / WEIGHTS)})
    if pickles := [name for name in PICKLES if (path / name).is_file()]:
        raise DataError(f"{path} holds {pickles[0]}, which may run code when it is read: save it as safetensors first")
    raise DataError(f"{path} holds no model: none of {WEIGHTS}, {INDEX}, {ADAPTER}")


def _sharded(path: Path) -> Checkpoint:
    where = _json(path / INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(
        isinstance(home, str) and Path(home).name == home for home in where.values()
    ):
        raise DataError(f"{path / INDEX} is damaged: its weight_map must give a file of the folder for each tensor")
    found = Checkpoint(path, "shards", {home: TensorFile(path / home) for home in sorted(set(where.values()))})
    if found.homes != where:
        wrong = sorted(set(found.homes.items()) ^ set(where.items()))
        raise DataError(f"{path / INDEX} does not fit the files, first at {wrong[0][0]}")
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged: not an object")
    return found


def check_kinds(models: Mapping[str, Checkpoint]) -> None:
    """Raise ConfigError when adapters stand beside whole models, or the adapters' configurations do not agree."""
    (first, one), *others = models.items()
    for label, other in others:
        if (one.kind == "adapter") != (other.kind == "adapter"):
            both = (label, first) if other.kind == "adapter" else (first, label)
            raise ConfigError(f"{both[0]} is an adapter and {both[1]} is not; merge adapters with adapters")
        if one.kind == "adapter":
            _check_configs(first, one.config, label, other.config)


def _check_configs(first: str, one: Mapping[str, Any], label: str, other: Mapping[str, Any]) -> None:
    for key in sorted((one.keys() | other.keys()) - set(PASSING)):
        here, there = (_plain(config.get(key)) for config in (one, other))
        if here != there:
            raise ConfigError(
                f"{label}: {ADAPTER_CONFIG} has {key} = {there!r}, that of {first} has {here!r}; adapters must agree"
            )


def _plain(value: Any) -> Any:
    """Lists in order: peft writes sets."""
    return sorted(value, key=str) if isinstance(value, list) else value
