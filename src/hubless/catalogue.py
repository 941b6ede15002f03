"""What recipes there are, read without importing them.

A recipe is a file: ``recipes/FAMILY/NAME.py`` of this package, any path that is asked for, or an entry
point of another package in the group ``hubless.recipes``. Summary, options, presets and the statements of
its claims are read from the syntax tree, so that ``hubless list`` and ``hubless show`` need no torch; only
``load`` imports the module. Entry points of other packages are imported when asked for by name.
"""

from __future__ import annotations

import ast
import builtins
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

from pydantic import Field

from hubless import options
from hubless.errors import ConfigError, did_you_mean
from hubless.recipe import Recipe, Schema

FAMILIES = Path(__file__).parent / "recipes"
GROUP = "hubless.recipes"


@dataclass(frozen=True)
class Statement:
    """What a claim says, and the paper's own figure or wording."""

    text: str
    paper: str


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
    def _source(self) -> _Source:
        if self.path is not None:
            return _Source(self.path)
        module = sys.modules[self.load().__module__]
        return _Source(Path(inspect.getfile(module)))

    @property
    def system(self) -> int | None:
        """Its number in the list of published systems."""
        return self._source.system

    @property
    def summary(self) -> str:
        """The first line of the module's docstring."""
        if self.point is not None and self.path is None and self.point.module not in sys.modules:
            return f"from {self.point.value}"
        return self.doc.partition("\n")[0]

    @property
    def doc(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(self._source.tree) or ""

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """Named sets of options."""
        return self._source.presets

    @property
    def statements(self) -> list[Statement]:
        """What its claims say, in the order of the file."""
        return self._source.statements

    def schema(self) -> Schema:
        """Its options with types, bounds, defaults and help; compiled from the signature alone."""
        return self._source.schema

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
            found = vars(_module(self.path)).get(self._source.function.name)
        if not isinstance(found, Recipe):
            raise ConfigError(f"{self.path or self.point}: this is not a function under @recipe")
        return found


def entries() -> list[Entry]:
    """The package's recipes by family and name, then those of other packages."""
    own = [Entry(_Source(path).name, path.parent.name, path) for path in _files()]
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
        return Entry(_Source(path).name, family, path)
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


class _Source:
    """A recipe file as a syntax tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        except (SyntaxError, UnicodeDecodeError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
            raise ConfigError(f"{path}{line}: this is not Python: {error}") from None
        marked = [(f, mark) for f in self.tree.body if isinstance(f, ast.FunctionDef) for mark in _marks(f)]
        if len(marked) != 1:
            raise ConfigError(f"{path}: a recipe file has one function under @recipe(...), this one has {len(marked)}")
        self.function, self.mark = marked[0]
        self.name = self.function.name.replace("_", "-")

    @property
    def system(self) -> int | None:
        given = {keyword.arg: keyword.value for keyword in self.mark.keywords}
        return ast.literal_eval(given["system"]) if "system" in given else None

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """Values of the module's own names."""
        found = {}
        for node in self.tree.body:
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                found[ast.unparse(node.target)] = node.value
            elif isinstance(node, ast.Assign):
                found |= {ast.unparse(target): node.value for target in node.targets}
        return found

    @cached_property
    def presets(self) -> dict[str, dict[str, Any]]:
        if "presets" not in self.assigned:
            return {}
        try:
            value: dict[str, dict[str, Any]] = self._value(self.assigned["presets"])
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{self.path}: presets must be a dict of plain dicts ({error})") from None
        return value

    def _value(self, node: ast.expr) -> Any:
        """A literal that may also use ``dict(...)``, ``**`` and the module's own constants."""
        match node:
            case ast.Name(id=name) if name in self.assigned:
                return self._value(self.assigned[name])
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                found: dict[Any, Any] = {}
                for key, value in pairs:
                    found |= self._value(value) if key is None else {self._value(key): self._value(value)}
                return found
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
                found = {}
                for keyword in keywords:
                    value = self._value(keyword.value)
                    found |= value if keyword.arg is None else {keyword.arg: value}
                return found
            case _:
                return ast.literal_eval(node)

    @cached_property
    def statements(self) -> list[Statement]:
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Claim":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                names = ("statement", "check", "paper")
                given |= dict(zip(names, node.args, strict=False))
                found.append((node.lineno, Statement(_text(given.get("statement")), _text(given.get("paper")))))
        return [statement for _, statement in sorted(found, key=lambda item: item[0])]

    @cached_property
    def schema(self) -> Schema:
        """The function without decorators, body and return type, compiled beside the names of ``options``."""
        doc = ast.get_docstring(self.function, clean=False)
        bare = ast.FunctionDef(
            name=self.function.name,
            args=self.function.args,
            body=[ast.Expr(ast.Constant(doc))] if doc else [ast.Pass()],
            decorator_list=[],
        )
        aliases: dict[str, ast.expr] = {}
        self._gather(bare.args, aliases)
        body: list[ast.stmt] = [
            ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), value)
            for name, value in aliases.items()
        ]
        body.append(ast.copy_location(bare, self.function))
        space: dict[str, Any] = {name: getattr(options, name) for name in options.__all__}
        space["Field"] = Field
        try:
            tree = ast.fix_missing_locations(ast.Module(body, []))
            code = compile(tree, str(self.path), "exec", dont_inherit=True)
            exec(code, space)
        except NameError as error:
            raise ConfigError(
                f"{self.path}: {error}; a recipe's signature uses names of hubless.options and constants of its file"
            ) from None
        return Schema(self.name, space[self.function.name])

    def _gather(self, node: ast.AST, aliases: dict[str, ast.expr]) -> None:
        """The module's own constants that a signature needs, each after those it needs itself."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id not in aliases and not hasattr(builtins, part.id):
                value = self.assigned.get(part.id)
                if value is not None:
                    self._gather(value, aliases)
                    aliases[part.id] = value


def _marks(function: ast.FunctionDef) -> Iterator[ast.Call]:
    for mark in function.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func).split(".")[-1] == "recipe":
            yield mark


def _text(node: ast.expr | None) -> str:
    if node is None:
        return ""
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)
