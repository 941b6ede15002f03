"""``hubless models``: pre-trained models that peers can start from: which there are, and fetching one."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Pre-trained models: list them, fetch and convert one.", no_args_is_help=True)


def list_models() -> None:
    """Print every embedded model with what it is and whether it lies in the cache."""
    from hubless.data.fetch import cache
    from hubless.models.embedded import EMBEDDED, is_here

    table = Table("name", "what it is", "here", box=None, pad_edge=False)
    for name, model in EMBEDDED.items():
        table.add_row(name, model.about, "yes" if is_here(name) else "no")
    console = Console()
    console.print(table, highlight=False)
    console.print(f"cache: {cache() / 'models'}", highlight=False, soft_wrap=True)
    console.print("a folder that transformers can load does as well: --model hf:FOLDER", highlight=False)


def get(names: list[str]) -> None:
    """Fetch and convert models. Raises ConfigError for an unknown name, DataError when one cannot be had."""
    from hubless.errors import ConfigError, did_you_mean
    from hubless.models import embedded

    for name in names:  # a wrong name stops everything before the first download
        if name not in embedded.EMBEDDED:
            raise ConfigError(f"models: unknown model {name!r}; {did_you_mean(name, embedded.EMBEDDED)}")
    for name in names:
        folder = embedded.get(name)
        size = sum(file.stat().st_size for file in folder.iterdir())
        typer.echo(f"{name}: {size / 1e6:,.0f} MB in {folder}")


app.command("list")(list_models)
app.command("get")(get)
