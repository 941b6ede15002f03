"""What recipes there are, read without importing them.

A recipe is a file: ``recipes/FAMILY/NAME.py`` of this package, any path that is asked for, or an entry
point of another package in the group ``hubless.recipes``. Summary, options, presets and the statements of
its claims are read from the syntax tree, so that ``hubless list`` and ``hubless show`` need no torch; only
``load`` imports the module. Entry points of other packages are imported when asked for by name.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from hubless.errors import ConfigError, did_you_mean
from hubless.recipe import Recipe, Schema
from hubless.recipe_file import RecipeFile, Statement

FAMILIES = Path(__file__).parent / "recipes"
GROUP = "hubless.recipes"


@dataclass(frozen=True)
class Entry:
    """One recipe of the catalogue.

    name:   what the command line calls it
    family: its folder; ``file`` for one given by its path, ``plugin`` for one of another package
    path:   its file; None for a plugin that was not loaded yet
    point:  the entry point of a plugin
    """

    name: str
    family: str
    path: Path | None = None
    point: EntryPoint | None = None

    @cached_property
    def _file(self) -> RecipeFile:
        if self.path is not None:
            return RecipeFile(self.path)
        module = sys.modules[self.load().__module__]
        return RecipeFile(Path(inspect.getfile(module)))

    @property
    def system(self) -> int | None:
        """Its number in the list of published systems."""
        return self._file.system

    @property
    def summary(self) -> str:
        """The first line of the module's docstring."""
        if self.point is not None and self.path is None and self.point.module not in sys.modules:
            return f"from {self.point.value}"
        return self.doc.partition("\n")[0]

    @property
    def doc(self) -> str:
        """The module's docstring."""
        return self._file.doc

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """Named sets of options."""
        return self._file.presets

    @property
    def statements(self) -> list[Statement]:
        """What its claims say, in the order of the file."""
        return self._file.statements

    def schema(self) -> Schema:
        """Its options with types, bounds, defaults and help; compiled from the signature alone."""
        return self._file.schema

    def resolve(self, given: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
        """As ``Recipe.resolve``, before anything heavy is imported."""
        if preset is not None and preset not in self.presets:
            raise ConfigError(f"{self.name}: unknown preset {preset!r}; {did_you_mean(preset, self.presets)}")
        return self.schema().validate({**(self.presets[preset] if preset else {}), **given})

    def load(self) -> Recipe:
        """Import the module and give the recipe. A file keeps one module name, whatever process loads it."""
        if self.point is not None:
            found = self.point.load()
            if isinstance(found, ModuleType):
                found = next((value for value in vars(found).values() if isinstance(value, Recipe)), None)
        elif self.path is not None:
            found = vars(_module(self.path)).get(self._file.function.name)
        if not isinstance(found, Recipe):
            raise ConfigError(f"{self.path or self.point}: this is not a function under @recipe")
        return found


def entries() -> list[Entry]:
    """The package's recipes by family and name, then those of other packages."""
    own = [Entry(RecipeFile(path).name, path.parent.name, path) for path in _files()]
    others = [Entry(point.name, "plugin", point=point) for point in entry_points(group=GROUP)]
    return [*own, *sorted(others, key=lambda entry: entry.name)]


def find(name: str | Path) -> Entry:
    """The recipe of that name, or the one in that file (anything with ``.py`` or a slash is a path).

    Raises ConfigError, with the nearest name, when there is none.
    """
    text = str(name)
    if isinstance(name, Path) or text.endswith(".py") or "/" in text:
        path = Path(text).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"no recipe file {text!r}; give a recipe's name or the path of a Python file")
        family = path.parent.name if path.is_relative_to(FAMILIES) else "file"
        return Entry(RecipeFile(path).name, family, path)
    for path in _files():
        if path.stem == text.replace("-", "_"):  # a recipe of the house has the name of its file: others are not read
            return Entry(RecipeFile(path).name, path.parent.name, path)
    known = {entry.name: entry for entry in reversed(entries())}
    if entry := known.get(text.replace("_", "-")):
        return entry
    raise ConfigError(f"unknown recipe {text!r}; {did_you_mean(text, known)}")


def _files() -> Iterator[Path]:
    for path in sorted(FAMILIES.glob("*/*.py")):
        if not path.name.startswith("_"):
            yield path


def _module(path: Path) -> ModuleType:
    if path.is_relative_to(FAMILIES):
        return importlib.import_module(".".join(["hubless.recipes", path.parent.name, path.stem]))
    name = f"hubless_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: Python cannot import a file of this kind")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:  # as for a script, so that it finds its neighbours
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
