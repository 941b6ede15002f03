"""``hubless show NAME``: what a recipe is, its options, presets and claims."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from hubless import catalogue
from hubless.cli import results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hubless.recipe import Schema

app = typer.Typer(add_completion=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe's name, or the path of its file.")],
) -> None:
    """What a recipe is: options with their bounds and defaults, presets, claims."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    entry = catalogue.find(name)
    schema = entry.schema()
    about = "" if entry.system is None else f", system {entry.system}"
    console.print(f"[bold cyan]{entry.name}[/] ({entry.family}{about})")
    for text in (entry.doc, prose(schema)):
        if text:
            console.print(escape(_unwrapped(text)) + "\n")
    option_tables(console, schema)
    if entry.presets:
        console.print("[bold]presets[/]")
        for preset, given in entry.presets.items():
            text = " ".join(f"--{option.replace('_', '-')} {value}" for option, value in given.items())
            console.print(f"  [cyan]{preset}[/]  {escape(text)}", soft_wrap=True)
        console.print()
    if entry.statements:
        _claims(console, entry)


def prose(schema: Schema) -> str:
    """The recipe's help without the lines about its arguments."""
    return schema.doc.partition("\nArgs:")[0].strip()


def _unwrapped(text: str) -> str:
    """Paragraphs as one line each, for the terminal to break; what is indented or listed stays as it is."""
    return re.sub(r"(?<=\S)\n(?=[^\s*-])", " ", text)


def option_tables(console: Console, schema: Schema) -> None:
    """Print the recipe's own options, then those that every recipe has."""
    console.print(_options(schema, house=False))
    console.print()
    console.print(_options(schema, house=True))
    console.print()


def _options(schema: Schema, *, house: bool) -> Table:
    from rich.markup import escape
    from rich.table import Table

    title = "options of every recipe" if house else f"options of {schema.name}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True)
    table.add_column("option", no_wrap=True, style="cyan", min_width=16)
    table.add_column("default", no_wrap=True)
    table.add_column("takes", ratio=2)
    table.add_column("meaning", ratio=5, overflow="fold")
    for option in schema.options.values():
        if option.house is house:
            words = (escape(str(text)) for text in (option.default, option.allowed, option.help))
            table.add_row(f"--{option.name.replace('_', '-')}", *words)
    return table


def _claims(console: Console, entry: catalogue.Entry) -> None:
    from rich.markup import escape

    console.print("[bold]claims[/]")
    for statement in entry.statements:
        console.print(
            f"  {escape(statement.text)}" + (f" [dim](paper: {escape(statement.paper)})[/]" * bool(statement.paper))
        )
    if last := results.read().get(entry.name):
        console.print(f"  last verified {last.date} on {len(last.seeds)} seeds: {last.tally} statements held")
        for _, row in last.rows:
            console.print(
                f"  {results.NAMES[row.held]:8} {escape(row.statement)}: {results.measured(row)}", soft_wrap=True
            )
    else:
        console.print(f"  not verified yet: hubless verify {entry.name}")
