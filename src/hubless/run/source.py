"""Where a recipe comes from, as text: enough to find it again in another process or on another day."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from hubless.errors import ConfigError

if TYPE_CHECKING:
    from hubless.recipe import Recipe


def source_of(recipe: Recipe) -> str:
    """The name of a recipe of the house, ``module:name`` of one that can be imported, else the path of its file."""
    module = recipe.function.__module__
    if module.startswith("hubless.recipes."):
        return recipe.name
    file = Path(inspect.getsourcefile(recipe.function) or "").resolve()
    return f"{module}:{recipe.function.__name__}" if _file(module) == file else str(file)


def _file(module: str) -> Path | None:
    """Where another process would find the module; None for ``__main__`` and for files loaded under made-up names."""
    parent = module.rpartition(".")[0]
    try:
        spec = PathFinder.find_spec(module, sys.modules[parent].__path__ if parent else None)
    except (ImportError, AttributeError, KeyError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def absolute(source: str) -> str:
    """The same source from any working directory: the path of a file becomes absolute."""
    return str(Path(source).resolve()) if Path(source).is_file() else source


def find_recipe(source: str) -> Recipe:
    """The recipe of a name, a path, or ``module:name``. Raises ConfigError when there is none."""
    from hubless.recipe import Recipe

    if match := re.fullmatch(r"([\w.]+):(\w+)", source):
        try:
            found = getattr(importlib.import_module(match[1]), match[2])
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"recipe {source!r} cannot be imported: {error}") from None
        if not isinstance(found, Recipe):
            raise ConfigError(f"recipe {source!r} is a {type(found).__name__}, not a recipe")
        return found
    from hubless import catalogue

    return catalogue.find(source).load()
