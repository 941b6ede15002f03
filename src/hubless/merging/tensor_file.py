"""One ``.safetensors`` file, read and written a tensor at a time.

The format: eight bytes with the length of a JSON header, the header (name -> type, shape and place), then the values.
Reading a tensor copies that tensor alone; the header of a file to be written is made before the first value is known.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hubless.errors import DataError

TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "F64": torch.float64,
    "I64": torch.int64, "U64": torch.uint64,
}  # in the order in which the format's own writer sorts them, backwards  # fmt: skip
NAMES = {kind: name for name, kind in TYPES.items()}
LONGEST = 100_000_000  # bytes of a header, the format's limit
ABOUT = "__metadata__"


class Form(NamedTuple):
    """Type and shape of a tensor."""

    kind: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What its values take."""
        return math.prod(self.shape) * self.kind.itemsize


class TensorFile(Mapping[str, Tensor]):
    """A file's tensors by name; each look-up reads one. Raises DataError for what is no such file, or a damaged one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forms: dict[str, Form] = {}
        self.about: dict[str, str] = {}
        self._places: dict[str, int] = {}
        try:
            self._read_header()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no safetensors file, or a damaged one: {error}") from None

    def _read_header(self) -> None:
        with self.path.open("rb") as file:
            whole = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if whole < 8 or length > min(whole - 8, LONGEST):
                raise ValueError(f"its header should have {length:,} bytes, the file has {whole:,}")
            header = json.loads(file.read(length))
        self.about = header.pop(ABOUT, {})
        end = 8 + length
        for name, entry in sorted(header.items(), key=lambda one: one[1]["data_offsets"]):
            if entry["dtype"] not in TYPES:
                raise ValueError(f"{name} has the type {entry['dtype']}, which cannot be merged")
            form = Form(TYPES[entry["dtype"]], tuple(int(size) for size in entry["shape"]))
            first, last = (8 + length + int(place) for place in entry["data_offsets"])
            if first != end or last - first != form.bytes or min(form.shape, default=0) < 0:
                raise ValueError(f"the place of {name} does not fit its shape, or leaves a gap")
            self.forms[name], self._places[name], end = form, first, last
        if end != whole:
            raise ValueError(f"the tensors take {end:,} bytes, the file has {whole:,}")

    def __getitem__(self, name: str) -> Tensor:
        form = self.forms[name]
        if not form.bytes:
            return torch.empty(form.shape, dtype=form.kind)
        values = bytearray(form.bytes)
        with self.path.open("rb") as file:
            file.seek(self._places[name])
            if file.readinto(values) != form.bytes:
                raise DataError(f"{self.path} ends within {name}: it has changed while it was read")
        return torch.frombuffer(values, dtype=form.kind).reshape(form.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.forms)

    def __len__(self) -> int:
        return len(self.forms)


def ordered(forms: Mapping[str, Form]) -> list[str]:
    """Names in the order of a written file: large types first, so that values lie on multiples of their size."""
    rank = {kind: -place for place, kind in enumerate(NAMES)}
    return sorted(forms, key=lambda name: (rank[forms[name].kind], name))


def write_tensors(
    path: Path, forms: Mapping[str, Form], tensors: Iterable[tuple[str, Tensor]], about: Mapping[str, str]
) -> None:
    """A file of those tensors, which come in the order of ``ordered(forms)`` and are written as they come."""
    header: dict[str, object] = {ABOUT: dict(about)} if about else {}
    place = 0
    for name in ordered(forms):
        form = forms[name]
        span = [place, place + form.bytes]
        header[name] = {"dtype": NAMES[form.kind], "shape": list(form.shape), "data_offsets": span}
        place = span[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (given, tensor) in zip(ordered(forms), tensors, strict=True):
            assert (given, tensor.dtype, tuple(tensor.shape)) == (name, *forms[name])
            if tensor.numel():
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
