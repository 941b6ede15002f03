"""A recipe is a function: its typed keyword arguments are the options, its docstring is the help.

``@recipe(system=52)`` turns it into a ``Recipe``. The options, their validation, the command line, the
docs and the error texts all come from the signature; nothing else declares them. The options of
``Setting`` (seed, faults, device, ...) are added to every recipe; one that declares such a name itself
gives it another default, and receives its value.

Beside the function, its module may define ``presets`` (name -> options) and ``claims``.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from hubless.errors import ConfigError, did_you_mean
from hubless.options import STANDARD, Part
from hubless.parts import explain, make
from hubless.run.setting import Setting

if TYPE_CHECKING:
    from hubless.claims import Claim
    from hubless.run.record import Experiment


@dataclass(frozen=True)
class Option:
    """One option of a recipe, as help and docs show it."""

    name: str
    annotation: Any
    default: Any
    help: str
    house: bool

    @property
    def allowed(self) -> str:
        """What values it takes, in words."""
        return describe(self.annotation)


class Schema:
    """The options of a function, read from its signature; works on a function without a body, too."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.doc = inspect.getdoc(function) or ""

    @cached_property
    def options(self) -> dict[str, Option]:
        """Own options in the order of the signature, then those of the house."""
        said = argument_help(self.doc)
        hints = typing.get_type_hints(self.function, include_extras=True)
        found = {}
        for p in inspect.signature(self.function).parameters.values():
            if p.kind is not p.KEYWORD_ONLY and p.kind is not p.POSITIONAL_OR_KEYWORD:
                raise ConfigError(f"{self.name}: a recipe takes named arguments only, not {p}")
            if p.default is p.empty:
                raise ConfigError(f"{self.name}.{p.name}: every option of a recipe has a default")
            text = said.get(p.name) or STANDARD.get(p.name, "")
            found[p.name] = Option(p.name, hints.get(p.name, Any), p.default, text, p.name in Setting.model_fields)
        house = typing.get_type_hints(Setting, include_extras=True)
        for name, field in Setting.model_fields.items():
            if name not in found:
                found[name] = Option(name, house[name], field.default, STANDARD[name], True)
        return found

    @cached_property
    def model(self) -> type[BaseModel]:
        """A pydantic model of the options."""
        fields: dict[str, Any] = {
            o.name: (o.annotation, Field(default=o.default, validate_default=False)) for o in self.options.values()
        }
        return create_model(
            self.name, __config__=ConfigDict(extra="forbid", protected_namespaces=(), frozen=True), **fields
        )

    def validate(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options with their checked values; text stays text for options that name a part.

        Raises ConfigError naming the recipe, the option, the value and what is allowed.
        """
        for name in given:
            if name not in self.options:
                raise ConfigError(f"{self.name}: unknown option {name!r}; {did_you_mean(name, self.options)}")
        try:
            return dict(iter(self.model(**given)))  # not dict(model): that would take an option "keys" for its method
        except ValidationError as error:
            raise ConfigError(f"{self.name}.{explain(error)}") from None


class Recipe(Schema):
    """A recipe, loaded: its schema, presets and claims, and how to build its experiment."""

    def __init__(self, function: Callable[..., Experiment], system: int | None) -> None:
        super().__init__(function.__name__.replace("_", "-"), function)
        self.system = system
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__

    def __call__(self, **options: Any) -> Experiment:
        """The experiment with these options; same as ``build``."""
        return self.build(options)

    @property
    def summary(self) -> str:
        """First line of its module's docstring."""
        return (sys.modules[self.function.__module__].__doc__ or "").strip().partition("\n")[0]

    @property
    def presets(self) -> dict[str, dict[str, Any]]:
        """Named sets of options; the defaults are the laptop scale."""
        return getattr(sys.modules[self.function.__module__], "presets", {})

    @property
    def sweep(self) -> dict[str, Any]:
        """What ``hubless grid`` sweeps unless told otherwise: ``axes``, options with their values, and ``metrics``."""
        return getattr(sys.modules[self.function.__module__], "sweep", {})

    @property
    def claims(self) -> list[Claim]:
        """What ``hubless verify`` checks."""
        return getattr(sys.modules[self.function.__module__], "claims", [])

    def resolve(self, given: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
        """Defaults, then the preset, then what was given; validated."""
        if preset is not None and preset not in self.presets:
            raise ConfigError(f"{self.name}: unknown preset {preset!r}; {did_you_mean(preset, self.presets)}")
        return self.validate({**(self.presets[preset] if preset else {}), **given})

    def build(self, given: Mapping[str, Any], preset: str | None = None) -> Experiment:
        """The experiment. Raises ConfigError before any work when an option or a combination cannot work."""
        values = self.resolve(given, preset)
        own = {name: self._part(name, values[name]) for name in inspect.signature(self.function).parameters}
        setting = Setting(**{name: values[name] for name in Setting.model_fields})
        experiment: Experiment = self.function(**own)
        built = experiment.under(setting)
        if setting.backend != "in-process" and hasattr(built, "origin"):
            built.origin = _origin(self, values)
        return built

    def _part(self, name: str, value: Any) -> Any:
        for note in getattr(self.options[name].annotation, "__metadata__", ()):
            if isinstance(note, Part):
                return make(note.kind, value, where=f"{self.name}.{name}")
        return value


def _origin(recipe: Recipe, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """From what another process can build the experiment again; None where an option is no text or number."""
    from hubless.run.source import source_of

    if not all(isinstance(value, str | int | float | bool | None) for value in values.values()):
        return None
    return source_of(recipe), dict(values)


def recipe(*, system: int | None = None) -> Callable[[Callable[..., Any]], Recipe]:
    """Make a function a recipe. ``system`` is its number in the list of published systems, if it has one."""
    return lambda function: Recipe(function, system)


def argument_help(doc: str) -> dict[str, str]:
    """The lines under ``Args:`` of a docstring, by argument name."""
    found: dict[str, str] = {}
    name = ""
    block = re.split(r"^Args:\s*$", doc, maxsplit=1, flags=re.MULTILINE)
    for line in block[1].splitlines() if len(block) == 2 else ():
        if match := re.match(r"^ {4}(\w+):\s*(.*)$", line):
            name = match[1]
            found[name] = match[2].strip()
        elif name and re.match(r"^ {5,}\S", line):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


def describe(annotation: Any) -> str:
    """An annotation in words: ``integer >= 1``, ``one of a, b``, ``a topology``."""
    notes = getattr(annotation, "__metadata__", ())
    base = typing.get_args(annotation)[0] if notes else annotation
    for note in notes:
        if isinstance(note, Part):
            plain = f"{'an' if note.kind[0] in 'aeiou' else 'a'} {note.kind}"
            return {"weights": "mixing weights", "data": "a data set"}.get(note.kind, plain)
    if typing.get_origin(base) is typing.Literal:
        return "one of " + ", ".join(str(value) for value in typing.get_args(base))
    name = {int: "integer", float: "number", str: "text", bool: "true or false"}.get(base, str(base))
    bounds = [f"{sign} {bound:g}" for note in notes for sign, bound in _bounds(note)]
    return " ".join([name, ", ".join(bounds)]).strip()


def _bounds(note: Any) -> list[tuple[str, float]]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = []
    for item in getattr(note, "metadata", [note]):
        found += [(sign, getattr(item, key)) for key, sign in signs.items() if getattr(item, key, None) is not None]
    return found
