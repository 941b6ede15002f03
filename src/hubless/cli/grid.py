"""``hubless grid NAME --merge mean,median --attack none,sign-flip``: sweep options, draw heat maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubless import catalogue
from hubless.cli import arguments, sweeps
from hubless.errors import ConfigError, DataError
from hubless.run.folder import replace_text

if TYPE_CHECKING:
    from hubless.claims import Result

app = typer.Typer(add_completion=False)
FILE = "grid.json"


@dataclass(frozen=True)
class Plan:
    """A sweep, as its folder keeps it.

    axes:    options with the values they sweep over
    given:   options that every run has
    metrics: what the maps show
    """

    recipe: str
    axes: dict[str, list[Any]]
    given: dict[str, Any]
    seeds: list[int]
    metrics: list[str]
    preset: str | None

    def arms(self) -> dict[str, dict[str, Any]]:
        """Options of every cell by its label, the last axis fastest."""
        cells = [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]
        return {", ".join(f"{name} = {value}" for name, value in cell.items()): cell for cell in cells}


@app.command(context_settings=arguments.OPEN)
def grid(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME --OPTION VALUE,VALUE...",
            help="A recipe, and options with one or several values; free text is swept by repeating its option."
            " A recipe may have a sweep of its own, for options that are not given.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every cell.")] = 1,
    metric: Annotated[str, typer.Option(help="What the maps show: accuracy, loss, bytes, or several.")] = "",
    preset: Annotated[str | None, typer.Option(help="A named set of options under the given ones.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of page and runs; by default runs/grid-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.")] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 means one a core.")] = 0,
) -> None:
    """Sweep options over a grid of runs; a page of heat maps, and a table."""
    names, rest = arguments.leading([*(words or []), *context.args])
    if resume is not None:
        if names or rest or out or preset:
            raise ConfigError("--resume takes a sweep's folder alone: its recipe and options are in grid.json")
        plan = _read(resume)
    else:
        plan = _plan(names, rest, seeds, metric, preset)
    with nullcontext(resume) if resume is not None else sweeps.folder("grid", out) as folder:
        replace_text(folder / FILE, json.dumps(asdict(plan), indent=1) + "\n")
        _run(plan, folder, jobs)


def _plan(names: list[str], rest: list[str], count: int, metric: str, preset: str | None) -> Plan:
    if len(names) != 1:
        raise ConfigError("grid takes one recipe: hubless grid NAME --OPTION VALUE,VALUE...")
    entry = catalogue.find(names[0])
    values = arguments.values(entry.name, entry.schema().options, rest)
    own = entry.load().sweep
    values |= {name: list(given) for name, given in own.get("axes", {}).items() if name not in values}
    if len(values.get("seed", [])) > 1:
        raise ConfigError(f"{entry.name}.seed: seeds are repetitions, no axis; say --seed FIRST --seeds COUNT")
    axes = {name: given for name, given in values.items() if len(given) > 1}
    if not axes:
        raise ConfigError(f"{entry.name}: no option has several values; try --topology ring,grid")
    fixed = {name: given[0] for name, given in values.items() if len(given) == 1}
    span, given = arguments.seeds(count, fixed)
    metrics = metric.split(",") if metric else list(own.get("metrics", ["accuracy"]))
    plan = Plan(sweeps.source(entry), axes, given, list(span), metrics, preset)
    for cell in plan.arms().values():
        entry.resolve({**given, **cell}, preset)
    return plan


def _read(folder: Path) -> Plan:
    if not (folder / FILE).is_file():
        raise DataError(f"{folder} holds no sweep (there is no {FILE})")
    try:
        return Plan(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{folder / FILE} is damaged: {error}") from None


def _run(plan: Plan, folder: Path, jobs: int) -> None:
    from hubless.lab import LocalLab
    from hubless.report.grid import write_grid

    arms = plan.arms()
    again = f"hubless grid --resume {folder}"
    typer.echo(f"{len(arms)} cells, {len(plan.seeds)} seeds each; if it is interrupted: {again}", err=True)
    with LocalLab(plan.recipe, plan.seeds, plan.given, preset=plan.preset, jobs=jobs, keep=folder) as lab:
        results = lab.runs(**arms)
    values = {metric: _values(metric, results) for metric in plan.metrics}
    _print(plan, values)
    x, *rest = plan.axes
    y, *further = rest or [""]
    places = {label: (cell[x], cell.get(y, ""), *(cell[name] for name in further)) for label, cell in arms.items()}
    cells = {metric: {places[label]: seen for label, seen in found.items()} for metric, found in values.items()}
    name = next(iter(results.values()))[0].recipe
    typer.echo(write_grid(folder, name, x, plan.axes[x], y, plan.axes.get(y, [""]), cells, further))


def _values(metric: str, results: Mapping[str, list[Result]]) -> dict[str, list[float]]:
    """The metric's last value in every run; runs that do not have it stay out. Raises DataError when none has it."""
    found = {
        label: [run.final(metric) for run in runs]
        for label, runs in results.items()
        if all(any(metric in record.metrics for record in run.records) for run in runs)
    }
    if not found:
        next(iter(results.values()))[0].final(metric)
    return found


def _print(plan: Plan, values: Mapping[str, Mapping[str, list[float]]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from hubless.run.statistics import summarise

    table = Table(title=f"{', '.join(values)}; seeds: {len(plan.seeds)}", title_justify="left")
    for title in plan.axes:
        table.add_column(title)
    for metric in values:
        table.add_column("mean" if len(values) == 1 else metric, justify="right")
        table.add_column("spread", justify="right")
    for label, cell in plan.arms().items():
        words = [escape(str(value)) for value in cell.values()]
        for found in values.values():
            summary = summarise(found[label]) if label in found else None
            words += [f"{summary.mean:.4g}", f"{summary.spread:.2g}"] if summary else ["–", ""]
        table.add_row(*words)
    Console().print(table)
