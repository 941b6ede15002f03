"""``hubless new recipe|part NAME``: a working skeleton and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template
from typing import Annotated, Literal

import typer

from hubless.errors import ConfigError
from hubless.run.folder import replace_text

app = typer.Typer(add_completion=False)
TEMPLATES = Path(__file__).parent / "templates"
Kind = Literal["merge", "attack", "topology", "partition", "model"]


@app.command()
def new(
    what: Annotated[Literal["recipe", "part"], typer.Argument(help="recipe, or part with its --kind.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower case, words joined by dashes.")],
    kind: Annotated[Kind | None, typer.Option(help="What kind of part.")] = None,
    into: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
) -> None:
    """Write a skeleton that runs, and its test, to start from."""
    if (what == "part") != (kind is not None):
        raise ConfigError("--kind is needed for a part, and for a part only: hubless new part NAME --kind merge")
    for path in write(kind or "recipe", name, into):
        typer.echo(f"wrote {path}")
    file = f"{'' if into.is_absolute() else './'}{into / _identifier(name)}.py"
    if what == "recipe":
        typer.echo(f"now: hubless run {file} --preset tiny")
    else:
        typer.echo(f"now: a recipe file beside it that says 'import {_identifier(name)}' takes --{kind} {name}")


def write(template: str, name: str, into: Path) -> list[Path]:
    """The two files of a skeleton. Raises ConfigError for a name that cannot be, or a file that is there already."""
    identifier = _identifier(name)
    files = {into / f"{identifier}.py": template, into / f"test_{identifier}.py": f"test_{template}"}
    for path in files:
        if path.exists():
            raise ConfigError(f"{path} exists already")
    words = {
        "name": name,
        "identifier": identifier,
        "title": name.replace("-", " ").capitalize(),
        "camel": "".join(word.capitalize() for word in name.split("-")),
    }
    into.mkdir(parents=True, exist_ok=True)
    for path, source in files.items():
        text = (TEMPLATES / f"{source}.py.txt").read_text(encoding="utf-8")
        replace_text(path, Template(text).substitute(words))
    return list(files)


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(f"NAME = {name!r} must be lower-case words joined by dashes, such as slow-gossip")
    return name.replace("-", "_")
