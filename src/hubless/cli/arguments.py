"""Options of a recipe on the command line: read by its schema, not declared twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hubless import catalogue
from hubless.errors import ConfigError, did_you_mean
from hubless.recipe import Option

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}  # what follows belongs to the recipe


Known = Mapping[str, Option]


def pairs(where: str, known: Known, words: Sequence[str]) -> list[tuple[str, Any]]:
    """``--rho 0.1``, ``--rho=0.1``, ``--flag`` and ``--no-flag`` as (option, text or bool), in their order.

    Raises ConfigError for a word that is no option, an unknown option, or one without a value.
    """
    found: list[tuple[str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{where}: {word!r} is no option; names come first, then options as --name value")
        given, equals, value = word[2:].partition("=")
        option, bare = _option(where, known, given)
        if equals:
            found.append((option.name, value))
        elif option.annotation is bool and (not rest or rest[0].lower() not in ("true", "false")):
            found.append((option.name, bare))
        elif rest and not rest[0].startswith("--"):
            found.append((option.name, rest.pop(0)))
        else:
            raise ConfigError(f"{where}.{option.name}: --{given} needs a value ({option.allowed})")
    return found


def options(where: str, known: Known, words: Sequence[str]) -> dict[str, Any]:
    """The options that the words set, their values unchecked. Raises ConfigError for one set twice."""
    return _once(where, pairs(where, known, words))


def settings(where: str, known: Known, texts: Iterable[str]) -> dict[str, Any]:
    """The options that ``name=value`` texts set. Raises ConfigError for one set twice."""
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{where}: {text!r} must be written as name=value")
        found.append((_option(where, known, name)[0].name, value))
    return _once(where, found)


def arm(text: str) -> tuple[str, catalogue.Entry, dict[str, Any]]:
    """Label, recipe and own options of an arm: ``dfedsam`` or ``dfedsam:rho=0:topology=random-regular:4``.

    A colon ends a value only before ``name=`` of an option of the recipe, so that parts keep their own colons.
    """
    name, *rest = re.split(r":(?=[\w-]+=)", text, maxsplit=1)
    entry = catalogue.find(name)
    known = entry.schema().options
    names = "|".join(word for option in known for word in {option, option.replace("_", "-")})
    own = settings(entry.name, known, re.split(rf":(?=(?:{names})=)", rest[0]) if rest else [])
    return ":".join([entry.name, *rest]), entry, own


def values(where: str, known: Known, words: Sequence[str]) -> dict[str, list[Any]]:
    """Every option with its values for a sweep: split at commas, or one a repetition of the option.

    Free text (``--faults``) may hold commas itself, so only repeating it gives it several values.
    """
    found: dict[str, list[Any]] = {}
    for name, value in pairs(where, known, words):
        several = isinstance(value, str) and known[name].annotation is not str
        found.setdefault(name, []).extend(value.split(",") if several else [value])
    for name, given in found.items():
        if len({str(value) for value in given}) < len(given):
            raise ConfigError(f"{where}.{name}: {', '.join(map(str, given))} names a value twice")
    return found


def leading(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that come first, and the options after them."""
    first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    return list(words[:first]), list(words[first:])


def seeds(count: int, given: dict[str, Any]) -> tuple[range, dict[str, Any]]:
    """``count`` seeds from the given ``seed`` (0) on, and the other given options."""
    first = str(given.get("seed", 0))
    if not first.isdecimal():
        raise ConfigError(f"seed = {first!r} must be a whole number")
    return range(int(first), int(first) + count), {name: v for name, v in given.items() if name != "seed"}


def _option(where: str, known: Known, given: str) -> tuple[Option, bool]:
    name = given.replace("-", "_")
    if name in known:
        return known[name], True
    if name.startswith("no_") and (option := known.get(name[3:])) and option.annotation is bool:
        return option, False
    dashed = [option.replace("_", "-") for option in known]
    raise ConfigError(f"{where}: unknown option {given!r}; {did_you_mean(given, dashed)}")


def _once(where: str, found: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, _ in found:
        if sum(name == other for other, _ in found) > 1:
            raise ConfigError(f"{where}.{name}: given twice")
    return dict(found)
