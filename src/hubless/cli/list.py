"""``hubless list``: the recipes, by family."""

from __future__ import annotations

from itertools import groupby

import typer

from hubless import catalogue
from hubless.cli import results

app = typer.Typer(add_completion=False)


@app.command(name="list")
def list_() -> None:
    """What there is to run, by family, and which claims last held."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    verified = results.read()
    for family, members in groupby(catalogue.entries(), key=lambda entry: entry.family):
        table = Table(title=family, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=True)
        table.add_column("recipe", no_wrap=True, style="cyan", min_width=18)
        table.add_column("system", justify="right", no_wrap=True)
        table.add_column("what it is", ratio=1)
        table.add_column("claims held", no_wrap=True)
        for entry in members:
            known = entry.family != "plugin"
            last = verified.get(entry.name)
            claims = f"{last.tally} ({last.date})" if last else "not verified" if known and entry.statements else "-"
            system = str(entry.system) if known and entry.system is not None else ""
            table.add_row(entry.name, system, entry.summary, claims)
        console.print(table)
        console.print()
    console.print("[bold]hubless show NAME[/] for its options, [bold]hubless run NAME[/] to run it")
