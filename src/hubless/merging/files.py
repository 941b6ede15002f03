"""Merging checkpoints into a new one, with about one tensor a model in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hubless.errors import ConfigError, DataError
from hubless.merging.alike import check_alike, check_statistics
from hubless.merging.checkpoint import INDEX, Checkpoint, check_kinds, open_checkpoint
from hubless.merging.merge import cast, tensors
from hubless.merging.rule import Rule
from hubless.merging.tensor_file import Form, ordered, write_tensors

Told = Callable[[str, int], None]  # (name of a tensor that was written, its bytes)


class Nothing(Mapping[str, Tensor]):
    """Zeros of given shapes, which take no memory: what an adapter is a change of."""

    def __init__(self, forms: Mapping[str, Form]) -> None:
        self.forms = forms

    def __getitem__(self, name: str) -> Tensor:
        return torch.zeros(1).expand(self.forms[name].shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)


@dataclass(frozen=True)
class Merging:
    """A merge of checkpoints that was checked and can begin.

    forms: type and shape of each tensor of the output
    """

    rule: Rule
    models: dict[str, Checkpoint]
    base: Mapping[str, Tensor] | None
    weights: Sequence[float] | None
    statistics: dict[str, Checkpoint]
    forms: dict[str, Form]
    seed: int

    @property
    def first(self) -> Checkpoint:
        """The model whose files, types and configuration the output takes over."""
        return next(iter(self.models.values()))

    @property
    def averaged(self) -> int:
        """Tensors of a rule with statistics that have none, and get the mean."""
        known = next(iter(self.statistics.values()), None)
        return 0 if known is None else len(self.forms) - len(known)

    def write(self, out: Path, force: bool = False, told: Told = lambda name, size: None) -> None:
        """Write the merged model: it is there when all of it is, and whatever goes wrong leaves nothing behind.

        force: replace what is there
        told:  hears of each tensor
        Raises ConfigError when something is there already, DataError for values that are not finite or a full disk.
        """
        check_out(out, self.first, force)
        temporary = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._write(temporary, told)
            _replace(temporary, out)
        except OSError as error:
            raise DataError(f"{out} cannot be written: {error.strerror or error}") from None
        finally:
            _remove(temporary)

    def _write(self, path: Path, told: Told) -> None:
        first = self.first
        if first.kind == "file":
            self._write_file(path, next(iter(first.files)), told)
            return
        path.mkdir()
        for home in first.files:
            self._write_file(path / home, home, told)
        for file in first.beside:
            shutil.copyfile(file, path / file.name)
        if first.kind == "shards":
            index = first.index
            about = {**index.get("metadata", {}), "total_size": sum(form.bytes for form in self.forms.values())}
            text = json.dumps({**index, "metadata": about}, indent=2, ensure_ascii=False)
            (path / INDEX).write_text(text + "\n", encoding="utf-8")

    def _write_file(self, path: Path, home: str, told: Told) -> None:
        forms = {name: self.forms[name] for name in self.first.files[home]}
        write_tensors(path, forms, self._merged(ordered(forms), told), self.first.files[home].about)

    def _merged(self, names: Sequence[str], told: Told) -> Iterator[tuple[str, Tensor]]:
        merged = tensors(
            self.rule, self.models, names=names, base=self.base, weights=self.weights, statistics=self.statistics,
            seed=self.seed,
        )  # fmt: skip
        for name, tensor in merged:
            yield name, cast(name, tensor, self.forms[name].kind)
            told(name, self.forms[name].bytes)


def prepare(
    rule: Rule,
    models: Sequence[Path],
    *,
    base: Path | None = None,
    weights: Sequence[float] | None = None,
    statistics: Sequence[Path] = (),
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Merging:
    """A merge of the checkpoints at these places, of which only the headers are read yet.

    base:       what all were fine-tuned from; adapters without one are themselves the change, as in peft
    statistics: one checkpoint a model, for rules that need them
    dtype:      of the output's real numbers; None: each tensor's own in the first model
    Raises ConfigError or DataError for whatever can be known to be wrong.
    """
    if len(models) < 2 and not rule.needs_base:
        raise ConfigError(f"models: {len(models)} given; a merge needs two or more")
    opened = _opened(models)
    ground = None if base is None else open_checkpoint(base)
    everyone = opened if ground is None else opened | {f"base {base}": ground}
    adapters = all(model.kind == "adapter" for model in opened.values())
    rule.check(len(models), weights, ground is not None or adapters)
    if ground is not None and not rule.needs_base:
        raise ConfigError(f"base = {str(base)!r}: {type(rule).__name__} has no use for one; leave it away")
    check_kinds(everyone)
    check_alike({label: model.shapes for label, model in everyone.items()})
    known = _opened(statistics)
    first = next(iter(opened.values()))
    check_statistics(rule, first.shapes, len(models), {label: one.shapes for label, one in known.items()})
    forms = {
        name: form._replace(kind=dtype) if dtype is not None and form.kind.is_floating_point else form
        for name, form in first.forms.items()
    }
    origin = Nothing(forms) if ground is None and rule.needs_base else ground
    return Merging(rule, opened, origin, weights, known, forms, seed)


def _opened(paths: Sequence[Path]) -> dict[str, Checkpoint]:
    """Checkpoints by their paths; one that comes twice is told apart."""
    found: dict[str, Checkpoint] = {}
    for place, path in enumerate(paths, 1):
        label = str(path)
        found[f"{label} (number {place})" if label in found else label] = open_checkpoint(path)
    return found


def check_out(out: Path, like: Checkpoint, force: bool) -> None:
    """Raise ConfigError unless a checkpoint of that kind can be written there."""
    if not out.exists():
        return
    said = f"out = {str(out)!r}"
    if not force:
        raise ConfigError(f"{said} exists already; --force replaces it")
    if out.is_dir() != (like.kind != "file"):
        raise ConfigError(f"{said} is a {'folder' if out.is_dir() else 'file'}, and what is written is not")
    if out.is_dir():
        if any(path.is_dir() for path in out.iterdir()):
            raise ConfigError(f"{said} holds folders, which are not replaced; remove it yourself")
        try:
            open_checkpoint(out)
        except DataError as error:
            raise ConfigError(f"{said} is replaced only when it is a model: {error}") from None


def _replace(temporary: Path, out: Path) -> None:
    if out.is_dir():
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        os.rename(out, old)
        os.rename(temporary, out)
        shutil.rmtree(old)
    else:
        os.replace(temporary, out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
