"""A recipe file, read without running it: its options, presets and claims from the syntax tree."""

from __future__ import annotations

import ast
import builtins
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic

from hubless import options
from hubless.errors import ConfigError
from hubless.recipe import Schema

LIGHT = {"hubless.options": options, "typing": typing, "pydantic": pydantic}


@dataclass(frozen=True)
class Statement:
    """What a claim says, and the paper's own figure or wording."""

    text: str
    paper: str


class RecipeFile:
    """A recipe file as a syntax tree. Raises ConfigError for a file that holds no recipe, or several."""

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
    def doc(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(self.tree) or ""

    @property
    def system(self) -> int | None:
        """The number that its mark gives."""
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
        """The module's presets. Raises ConfigError when they are more than literals."""
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
        """What every ``Claim(...)`` of the file says."""
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
        space = self._light()
        try:
            tree = ast.fix_missing_locations(ast.Module(body, []))
            code = compile(tree, str(self.path), "exec", dont_inherit=True)
            exec(code, space)
        except NameError as error:
            raise ConfigError(
                f"{self.path}: {error}; a recipe's signature uses names of hubless.options and constants of its file"
            ) from None
        return Schema(self.name, space[self.function.name])

    def _light(self) -> dict[str, Any]:
        """What a signature may use: the names of ``options``, and all that the file imports from light modules."""
        space: dict[str, Any] = {name: getattr(options, name) for name in options.__all__}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module in LIGHT:
                for alias in node.names:
                    space[alias.asname or alias.name] = getattr(LIGHT[node.module], alias.name, None)
        return space

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
