"""Checkpoints: the state after a round, so that a run can go on bit for bit.

``checkpoint/`` holds one safetensors file a snapshot and ``state.json``, which names it. Replacing
``state.json`` is the only step that commits a new checkpoint: a kill at any other moment leaves the old one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubless.errors import CheckpointError
from hubless.run.folder import replace_text
from hubless.run.record import Snapshot

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """Which run a checkpoint belongs to.

    recipe:  the recipe's name
    version: of hubless
    options: digest of the resolved options
    """

    recipe: str
    version: str
    options: str


def digest(options: Mapping[str, Any]) -> str:
    """A short name for resolved options: equal options, equal digest, whatever their order."""
    text = json.dumps(options, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save(folder: Path, snapshot: Snapshot, identity: Identity) -> None:
    """Write the snapshot beside the last one, then swap it in, then remove the last one."""
    folder.mkdir(exist_ok=True)
    name = f"round-{snapshot.round}.safetensors" if snapshot.tensors else ""
    if name:
        save_tensors(folder / name, snapshot.tensors)
    state = {**vars(identity), "round": snapshot.round, "tensors": name, "meta": snapshot.meta}
    replace_text(folder / "state.json", json.dumps(state))
    for path in folder.iterdir():
        if path.name not in (name, "state.json"):
            path.unlink(missing_ok=True)


def load(folder: Path, identity: Identity) -> Snapshot:
    """The last checkpoint.

    Raises CheckpointError when there is none, when it is damaged, or when it belongs to another recipe,
    version or set of options; the text names both sides.
    """
    path = folder / "state.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: there is no checkpoint to go on from")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        found = Identity(state["recipe"], state["version"], state["options"])
        round, name, meta = int(state["round"]), state["tensors"], state["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r})") from None
    for what in ("recipe", "version", "options"):
        theirs, ours = getattr(found, what), getattr(identity, what)
        if theirs != ours:
            raise CheckpointError(f"{folder}: the checkpoint's {what} is {theirs!r}, this run's is {ours!r}")
    return Snapshot(round, load_tensors(folder / name) if name else {}, meta)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors; the file is whole or not there."""
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(_apart(tensors), temporary)
    os.replace(temporary, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a file, on the CPU. Raises CheckpointError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error})") from None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory, which safetensors refuses: views of one store are copied."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().contiguous()
        store = flat.untyped_storage()
        if store.data_ptr() in seen or store.nbytes() != flat.nbytes:
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        apart[name] = flat
    return apart
