"""``hubless run NAME``: run a recipe into a folder, or go on with a run that was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubless import catalogue
from hubless.cli import arguments, results
from hubless.cli.show import option_tables
from hubless.errors import ConfigError
from hubless.run.folder import RunFolder, replace_text

if TYPE_CHECKING:
    from hubless.run.record import Record
    from hubless.run.sinks import Sink

app = typer.Typer(add_completion=False)


@app.command(context_settings=arguments.OPEN, add_help_option=False)
def run(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME [--OPTION VALUE]...",
            help="A recipe's name, or the path of its file; its options.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of options, such as tiny or paper.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME-TIME.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, from its last checkpoint.")
    ] = None,
    track: Annotated[str, typer.Option(help="Trackers to write to as well: tensorboard, mlflow.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    wanted: Annotated[bool, typer.Option("--help", "-h", help="This page; after NAME, its options, too.")] = False,
) -> None:
    """Run a recipe; its report, records and model are in the folder that is named at the end."""
    names, rest = arguments.leading([*(words or []), *context.args])
    if wanted:
        _explain(context, names)
        return
    if resume is not None:
        if names or rest or preset or out:
            raise ConfigError("--resume takes a run's folder alone: its recipe and options are in config.json")
    elif len(names) != 1:
        raise ConfigError("run takes one recipe: hubless run NAME [--OPTION VALUE]...; hubless list shows them")
    from hubless.run import runner

    if resume is not None:
        folder = runner.resume(resume, sinks=sinks(quiet, track))
    else:
        entry = catalogue.find(names[0])
        given = arguments.options(entry.name, entry.schema().options, rest)
        entry.resolve(given, preset)
        source = str(entry.path) if entry.family == "file" else entry.name
        folder = runner.run_recipe(
            entry.load(), given, preset=preset, out=out, sinks=sinks(quiet, track), source=source
        )
    typer.echo(folder.report if folder.report.exists() else folder.path)
    raise typer.Exit(folder.exit_code)


def sinks(quiet: bool, track: str) -> list[Sink]:
    """Who reads the records of a run: the report's claims, progress, and trackers."""
    from hubless.run.progress import Progress
    from hubless.run.track import trackers

    return [Verified(), *([] if quiet else [Progress()]), *trackers(track)]


class Verified:
    """A sink that lays what the recipe's claims last measured beside the run, for its report."""

    def open(self, folder: RunFolder, config: dict[str, Any]) -> None:
        """Write claims.json when the results table knows the recipe."""
        if last := results.read().get(config["recipe"]):
            replace_text(folder.path / "claims.json", json.dumps(last.body(), indent=1) + "\n")

    def write(self, record: Record, seconds: float) -> None:
        """Nothing to do."""

    def close(self, finished: bool) -> None:
        """Nothing to do."""


def _explain(context: typer.Context, names: list[str]) -> None:
    typer.echo(context.get_help())
    if names:
        from rich.console import Console

        option_tables(Console(), catalogue.find(names[0]).schema())
