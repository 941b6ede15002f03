"""``hubless compare A B ...``: the same seeds for every arm, curves over one another, differences to the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubless import catalogue
from hubless.cli import arguments, sweeps
from hubless.errors import ConfigError

if TYPE_CHECKING:
    from hubless.run.statistics import Comparison

app = typer.Typer(add_completion=False)


@app.command(context_settings=arguments.OPEN)
def compare(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARM ARM... [--OPTION VALUE]...",
            help="Recipes, each with options of its own if need be: dfedsam dfedsam:rho=0; then options of all arms.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every arm.")] = 3,
    metric: Annotated[str, typer.Option(help="What is compared, such as accuracy, loss, bytes.")] = "accuracy",
    preset: Annotated[str | None, typer.Option(help="A preset, for the arms that have it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of page and runs; by default runs/compare-TIME.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 means one a core.")] = 0,
) -> None:
    """Compare recipes on the same seeds: mean, spread, paired difference to the first, its 95 % interval."""
    names, rest = arguments.leading([*(words or []), *context.args])
    arms = {label: (entry, own) for label, entry, own in map(arguments.arm, names)}
    if len(arms) < 2 or len(arms) < len(names):
        raise ConfigError("compare takes two or more different arms: hubless compare dfedavg dfedsam dfedsam:rho=0")
    known = {n: option for entry, _ in arms.values() for n, option in entry.schema().options.items()}
    span, given = arguments.seeds(seeds, arguments.options("compare", known, rest))
    if not any(preset in entry.presets for entry, _ in arms.values()) and preset:
        raise ConfigError(f"preset: no arm has a preset {preset!r}")
    for entry, own in arms.values():
        _check(entry, own, given, preset)

    from hubless.lab import LocalLab
    from hubless.report.comparison import write_comparison
    from hubless.run import statistics

    first = next(iter(arms.values()))[0]
    with sweeps.folder("compare", out) as folder:
        with LocalLab(sweeps.source(first), span, given, preset=preset, jobs=jobs, keep=folder) as lab:
            results = lab.runs(**{name: {**own, "recipe": sweeps.source(entry)} for name, (entry, own) in arms.items()})
        rows = statistics.compare(results, metric)
        _print(rows, metric, seeds)
        typer.echo(write_comparison(folder, " against ".join(arms), results, rows, metric=metric))


def _check(entry: catalogue.Entry, own: dict[str, Any], given: dict[str, Any], preset: str | None) -> None:
    if "seed" in own:
        raise ConfigError(f"{entry.name}.seed: every arm runs on the same seeds; say --seed FIRST --seeds COUNT")
    shared = {name: value for name, value in given.items() if name in entry.schema().options}
    entry.resolve({**shared, **own}, preset if preset in entry.presets else None)


def _print(rows: list[Comparison], metric: str, seeds: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{metric}, seeds: {seeds}", title_justify="left")
    for title in ("arm", "mean", "spread", "difference to the first", "95 % interval"):
        table.add_column(title, justify="left" if title == "arm" else "right", overflow="fold")
    for row in rows:
        difference, interval = "", ""
        if row.difference is not None:
            difference = f"{row.difference.mean:+.4g}"
            interval = f"{row.difference.low:+.4g} to {row.difference.high:+.4g}" if seeds > 1 else "needs more seeds"
        table.add_row(escape(row.arm), f"{row.summary.mean:.4g}", f"{row.summary.spread:.2g}", difference, interval)
    Console().print(table)
