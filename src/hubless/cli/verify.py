"""``hubless verify``: run the claims and put the papers' figures beside ours."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from hubless import catalogue
from hubless.claims import Row
from hubless.cli import arguments, docs, results, sweeps
from hubless.errors import ConfigError, did_you_mean
from hubless.run.folder import replace_text

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Recipes, or paths of files.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every recipe of the catalogue that has claims.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every run.")] = 3,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option for every run, to try a claim elsewhere."),
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rows as JSON, too.")] = None,
    update_docs: Annotated[bool, typer.Option("--update-docs", help="Keep the rows in the results table.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 means one a core.")] = 0,
) -> None:
    """Run the claims of recipes; exit with 1 when one does not hold."""
    chosen = _chosen(names or [], everything)
    given = _given(chosen, set_ or [])
    span, given = arguments.seeds(seeds, given)
    if update_docs:
        docs.folder()
        if set_:
            raise ConfigError("--update-docs records claims as they stand; leave out --set")
    if json_ is not None and not json_.absolute().parent.is_dir():
        raise ConfigError(f"--json {json_}: there is no folder {json_.parent}")
    done: dict[str, results.Verified] = {}
    for entry in chosen:
        own = {name: v for name, v in given.items() if not everything or name in entry.schema().options}
        done[entry.name] = _verify(entry, span, own, jobs)
        _print(done[entry.name])
        if json_ is not None:
            replace_text(json_, json.dumps({name: v.body() for name, v in done.items()}, indent=1) + "\n")
        if update_docs and entry.family != "file":
            results.write(results.read() | {entry.name: done[entry.name]})
            docs.write(docs.folder())
    failed = [name for name, verified in done.items() if not verified.held]
    typer.echo(f"{len(done) - len(failed)} of {len(done)} recipes hold" + f"; not {', '.join(failed)}" * bool(failed))
    raise typer.Exit(1 if failed else 0)


def _chosen(names: list[str], everything: bool) -> list[catalogue.Entry]:
    if everything == bool(names):
        raise ConfigError("verify takes names of recipes, or --all")
    if everything:
        return [entry for entry in catalogue.entries() if entry.family != "plugin" and entry.statements]
    chosen = [catalogue.find(name) for name in names]
    for entry in chosen:
        if not entry.statements:
            raise ConfigError(f"{entry.name}: this recipe makes no claims")
    return chosen


def _given(chosen: list[catalogue.Entry], texts: list[str]) -> dict[str, Any]:
    """The options of ``--set``; a claim may compare with other recipes, so options of any recipe are known."""
    known = {name: option for entry in chosen for name, option in entry.schema().options.items()}
    near = sorted(known)
    for text in texts:
        name = text.partition("=")[0].replace("-", "_")
        if name not in known:
            others = [entry for entry in catalogue.entries() if entry.family != "plugin"]
            known |= {n: option for entry in others for n, option in entry.schema().options.items() if n == name}
        if name not in known:
            raise ConfigError(f"--set {text}: no recipe has an option {name!r}; {did_you_mean(name, near)}")
    given = arguments.settings("--set", known, texts)
    for entry in chosen:
        entry.resolve({name: value for name, value in given.items() if name in entry.schema().options})
    return given


def _verify(entry: catalogue.Entry, seeds: range, given: Mapping[str, Any], jobs: int) -> results.Verified:
    from hubless.lab import LocalLab

    rows: list[tuple[str, Row]] = []
    with LocalLab(sweeps.source(entry), seeds, given, jobs=jobs) as lab:
        for claim in entry.load().claims:
            rows += [(claim.statement, replace(row, paper=row.paper or claim.paper)) for row in claim.check(lab)]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return results.Verified(entry.name, today, list(seeds), dict(given), rows)


def _print(verified: results.Verified) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    given = "".join(f", {name} = {value}" for name, value in verified.given.items())
    table = Table(
        title=f"{verified.recipe}: {len(verified.seeds)} seeds{escape(given)}", title_justify="left", expand=True
    )
    table.add_column("statement", ratio=4)
    table.add_column("paper", ratio=3)
    table.add_column("measured", ratio=2)
    table.add_column("asked", no_wrap=True)
    table.add_column("held", no_wrap=True, min_width=8)
    styles = {True: "green", False: "bold red", None: "dim"}
    for _, row in verified.rows:
        held = f"[{styles[row.held]}]{results.NAMES[row.held]}[/]"
        table.add_row(escape(row.statement), escape(row.paper), results.measured(row), row.threshold, held)
    Console().print(table)
