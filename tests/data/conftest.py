from __future__ import annotations

import json
import stat
import struct
import sys
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

Publish = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("HUBLESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """A fake npm on PATH, and a way to publish archives with it: ``npm pack`` copies them, and counts its calls."""
    shop, programs = tmp_path / "shop", tmp_path / "programs"
    shop.mkdir()
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, shutil, sys\n"
        f"shop = pathlib.Path({str(shop)!r})\n"
        "archive = shop / (sys.argv[2].replace('@', '-') + '.tgz')\n"
        "with (shop / 'calls').open('a') as calls: calls.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "if not archive.exists(): sys.exit('npm error code E404\\nnpm error at registry.invalid')\n"
        "shutil.copy(archive, '.')\n"
    )
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(programs))

    def put(name: str, files: Mapping[str, bytes]) -> Path:
        with tarfile.open(shop / f"{name}.tgz", "w:gz") as tar:
            for path, data in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
        return shop

    return put


def idx_file(values: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def mnist_files() -> dict[str, bytes]:
    """MNIST's four files with 30 and 10 images."""
    rng = np.random.default_rng(0)
    files = {}
    for name, count in (("train", 30), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        files[f"package/data/{name}-images-idx3-ubyte"] = idx_file(images)
        files[f"package/data/{name}-labels-idx1-ubyte"] = idx_file(np.arange(count, dtype=np.uint8) % 10)
    return files


@pytest.fixture
def fashion_files() -> dict[str, bytes]:
    """Fashion-MNIST's ten files with 14 images each, two empty rows at the end of the first."""
    rng = np.random.default_rng(0)
    files = {}
    for label in range(10):
        rows: list[list[int]] = rng.integers(0, 256, (14, 784)).tolist()
        rows += [[], []] if label == 0 else []
        files[f"package/src/clothes/{label}.json"] = json.dumps({"data": rows}).encode()
    return files
