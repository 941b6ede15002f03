import os
from pathlib import Path

import pytest
import torch

from hubless.errors import CheckpointError
from hubless.run import checkpoint
from hubless.run.checkpoint import Identity, digest
from hubless.run.record import Snapshot

OWNER = Identity("walk", "0.1.0", "abc")


def snapshot(round: int) -> Snapshot:
    return Snapshot(round, {"x": torch.full((3,), float(round))}, {"bytes": 10 * round, "rate": 0.1})


def test_what_is_saved_comes_back(tmp_path: Path):
    checkpoint.save(tmp_path, snapshot(4), OWNER)
    back = checkpoint.load(tmp_path, OWNER)
    assert (back.round, back.meta) == (4, {"bytes": 40, "rate": 0.1})
    assert torch.equal(back.tensors["x"], torch.full((3,), 4.0))


def test_only_the_newest_is_kept(tmp_path: Path):
    for round in (1, 2, 3):
        checkpoint.save(tmp_path, snapshot(round), OWNER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-3.safetensors", "state.json"]


def test_views_of_one_tensor_are_kept_apart(tmp_path: Path):
    whole = torch.arange(6.0).reshape(2, 3)
    shared = {"a": whole[0], "b": whole[1], "all": whole, "same": whole, "wide": whole[:1].expand(4, 3), "t": whole.T}
    checkpoint.save(tmp_path, Snapshot(1, shared, {}), OWNER)
    back = checkpoint.load(tmp_path, OWNER).tensors
    assert all(torch.equal(back[name], tensor) for name, tensor in shared.items())
    assert back.keys() == shared.keys()


@pytest.mark.parametrize("kill_at", range(1, 4))
def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int):
    """Two replacements commit a checkpoint; dying before either, or before the old file goes, loses nothing."""
    checkpoint.save(tmp_path, snapshot(1), OWNER)
    steps = 0

    def step(act, *arguments, **options):
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise KeyboardInterrupt
        return act(*arguments, **options)

    replace, unlink = os.replace, Path.unlink
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *a: step(replace, *a))
        patched.setattr(Path, "unlink", lambda *a, **k: step(unlink, *a, **k))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, snapshot(2), OWNER)
    back = checkpoint.load(tmp_path, OWNER)
    assert back.round == (1 if kill_at < 3 else 2)
    assert torch.equal(back.tensors["x"], torch.full((3,), float(back.round)))
    checkpoint.save(tmp_path, snapshot(3), OWNER)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-3.safetensors", "state.json"]


@pytest.mark.parametrize(
    ("asking", "both"),
    [
        (Identity("dsgd", "0.1.0", "abc"), "recipe is 'walk', this run's is 'dsgd'"),
        (Identity("walk", "0.2.0", "abc"), "version is '0.1.0', this run's is '0.2.0'"),
        (Identity("walk", "0.1.0", "abd"), "options is 'abc', this run's is 'abd'"),
    ],
)
def test_another_runs_checkpoint_is_refused_and_both_are_named(tmp_path: Path, asking: Identity, both: str):
    checkpoint.save(tmp_path, snapshot(1), OWNER)
    with pytest.raises(CheckpointError, match=both):
        checkpoint.load(tmp_path, asking)


def test_no_checkpoint_and_a_damaged_one_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load(tmp_path, OWNER)
    checkpoint.save(tmp_path, snapshot(1), OWNER)
    (tmp_path / "round-1.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(tmp_path, OWNER)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(tmp_path, OWNER)


def test_a_digest_follows_the_values_and_not_their_order():
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
