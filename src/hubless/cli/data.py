"""``hubless data``: which data sets there are, fetching them ahead of time, and a look at one."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Data sets: list them, fetch them, look at one.", no_args_is_help=True)


def list_data() -> None:
    """Print every data set with what it is and whether loading it needs no download any more."""
    from hubless.data.archives import SOURCES
    from hubless.data.fetch import cache, is_cached
    from hubless.parts import parts

    table = Table("name", "what it is", "here", box=None, pad_edge=False)
    for name, factory in parts("data").items():
        summary = (factory.__doc__ or "").strip().split("\n")[0]
        here = "no" if name == "hf" or (name in SOURCES and not is_cached(name)) else "yes"
        table.add_row("hf:NAME" if name == "hf" else name, summary, here)
    console = Console()
    console.print(table, highlight=False)
    console.print(f"cache: {cache()}", highlight=False, soft_wrap=True)


def get(names: list[str]) -> None:
    """Fetch data sets and say what came. Raises ConfigError for an unknown name, DataError when one cannot be had."""
    from hubless.parts import make, parts

    for name in names:  # a wrong name stops everything before the first download
        if name.split(":")[0] not in parts("data"):
            make("data", name)
    for name in names:
        dataset = make("data", name)
        typer.echo(f"{name}: {len(dataset.x):,} training and {len(dataset.test_x):,} test samples")


def show(name: str) -> None:
    """Print a data set's shapes, types, range and how many samples each class has."""
    import numpy as np

    from hubless.parts import make

    dataset = make("data", name)
    typer.echo(f"{dataset.name}: {dataset.task}, {dataset.outputs} outputs")
    for which, x, y in (("training", dataset.x, dataset.y), ("test", dataset.test_x, dataset.test_y)):
        typer.echo(f"  {which}: x {list(x.shape)} {x.dtype} in [{x.min():g}, {x.max():g}], y {list(y.shape)} {y.dtype}")
    if dataset.classes:
        table = Table("class", "training", "test", box=None)
        both = [np.bincount(y, minlength=dataset.outputs) for y in (dataset.y, dataset.test_y)]
        for label, train, test in zip(dataset.classes, *both, strict=True):
            table.add_row(label, f"{train:,}", f"{test:,}")
        Console().print(table, highlight=False)


app.command("list")(list_data)
app.command("get")(get)
app.command("show")(show)
