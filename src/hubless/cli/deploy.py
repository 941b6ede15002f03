"""``hubless deploy``: all peers of a recipe as processes on this machine, watched into one run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hubless import catalogue
from hubless.cli import arguments
from hubless.cli.run import sinks

app = typer.Typer(add_completion=False)


@app.command(context_settings=arguments.OPEN)
def deploy(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE [--OPTION VALUE]...", help="A recipe's name, or its file.")],
    preset: Annotated[str | None, typer.Option(help="A named set of the recipe's options.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/RECIPE-TIME.")] = None,
    kill: Annotated[str, typer.Option(help="3@10: kill -9 in round 10; 3@10-14: and start it again in 14.")] = "",
    late: Annotated[str, typer.Option(help="5@8: start peer 5 in round 8.")] = "",
    cut: Annotated[str, typer.Option(help="2@6-9: drop the connections of peer 2 from round 6 until 9.")] = "",
    junk: Annotated[bool, typer.Option("--junk", help="A stranger sends junk to every node.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Then run the simulator, and compare the final rows.")] = False,
    round_seconds: Annotated[float, typer.Option(help="Seconds a round may take while somebody is missing.")] = 10.0,
    grace: Annotated[float, typer.Option(help="Seconds to wait for the last messages once most are there.")] = 3.0,
    gather_seconds: Annotated[float, typer.Option(help="Seconds that nodes may take to start.")] = 120.0,
    log: Annotated[str, typer.Option(help="Level of the nodes' logs: debug, info, warning or error.")] = "info",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Each peer in a process of its own, with a key of its own, over TLS on loopback; their logs are in the run folder.

    Records and report are those of the same run in the simulator. Ctrl-C ends all processes after the round.
    """
    entry = catalogue.find(recipe)
    given = arguments.options(entry.name, entry.schema().options, context.args)
    entry.resolve(given, preset)
    from hubless.learn.node.deployment import Deployment, Trouble, Troubles
    from hubless.learn.node.node import Pace
    from hubless.run import runner

    troubles = Troubles(
        Trouble.of("kill", kill), Trouble.of("late", late, ends=False), Trouble.of("cut", cut, ends=True), junk
    )
    pace = Pace(round_seconds, grace, 0, gather_seconds)
    deployment = Deployment(entry.load(), pace, troubles, check=check, log=log)
    source = str(entry.path) if entry.family == "file" else entry.name
    folder = runner.run_recipe(
        deployment, given, preset=preset, out=out, sinks=[deployment, *sinks(quiet, "")], source=source
    )
    typer.echo(folder.report if folder.report.exists() else folder.path)
    if deployment.difference is not None:
        typer.echo(f"largest difference to the simulator: {deployment.difference:.3g}")
    raise typer.Exit(folder.exit_code)
