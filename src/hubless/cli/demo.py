"""``hubless demo``: a hub that dies, beside populations that have none and go on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hubless import catalogue
from hubless.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from hubless.claims import Result

app = typer.Typer(add_completion=False)

ROUNDS, DEATH, HALF = 60, 20, 30  # of the run, of the hub, of the crashes
WORLD: dict[str, Any] = {
    "peers": 64,
    "samples": 12800,
    "partition": "dirichlet:0.3",
    "model": "mlp:64",
    "rounds": ROUNDS,
    "steps": 5,
    "lr": 0.05,
    "attack": "sign-flip:10%:5",
    "faults": f"crash:30%@{HALF}",
    "evaluate": 2,
}
ROBUST = "trimmed-mean:0.2"


@dataclass(frozen=True)
class Arm:
    """One run of the demo: a recipe with options, and what to look for."""

    name: str
    recipe: str
    story: str
    options: dict[str, Any] = field(default_factory=dict)


ARMS = (
    Arm(
        "hub",
        "fedavg",
        f"one server averages robustly, and dies in round {DEATH}: nobody learns any more",
        {"merge": ROBUST, "faults": f"crash:aggregator@{DEATH},{WORLD['faults']}"},
    ),
    Arm(
        "rotating",
        "fedavg",
        "the same method, but every round another peer has the aggregator role",
        {"merge": ROBUST, "aggregator": "rotating"},
    ),
    Arm(
        "gossip",
        "dfedavg",
        "no aggregator at all: every peer averages robustly with six neighbours",
        {"merge": ROBUST, "topology": "random-regular:6"},
    ),
    Arm(
        "gullible",
        "dfedavg",
        "the same gossip with a plain average, which believes the hostile peers",
        {"topology": "random-regular:6"},
    ),
)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs and the page; by default runs/demo-TIME.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
) -> None:
    """Train 64 peers on MNIST with skewed data, 6 hostile peers and 19 crashes: with a hub, and without."""
    from rich.console import Console

    from hubless.claims import Result
    from hubless.run import runner
    from hubless.run.folder import check_free, default_path
    from hubless.run.progress import Progress

    console = Console()
    folder = out or default_path("demo")
    check_free(folder)
    world = {**WORLD, "data": _data(console), "seed": seed}
    console.print(
        f"64 peers, each with its own skewed share of {world['data']} (Dirichlet 0.3). 6 of them are hostile and send "
        f"their update turned round, five times as large; 19 crash in round {HALF} of {ROUNDS}.",
        highlight=False,
    )
    results: dict[str, list[Result]] = {}
    began = time.monotonic()
    for arm in ARMS:
        console.print(f"\n[bold]{arm.name}[/bold]: {arm.story}", highlight=False)
        recipe = catalogue.find(arm.recipe).load()
        options = {**world, **arm.options}
        run = runner.run_recipe(recipe, options, out=folder / arm.name, sinks=[Progress(console)], source=arm.recipe)
        if run.exit_code:
            console.print(f"stopped; what was done is in {folder}")
            raise typer.Exit(run.exit_code)
        results[arm.name] = [Result(arm.recipe, options, run.records())]
    _conclude(console, folder, results, time.monotonic() - began)


def _data(console: Console) -> str:
    from hubless.parts import make

    try:
        make("data", "mnist")
    except DataError as error:
        console.print(f"[yellow]MNIST cannot be had here ({error}); the demo uses digits instead.[/yellow]")
        return "digits"
    return "mnist"


def _conclude(console: Console, folder: Path, results: dict[str, list[Result]], seconds: float) -> None:
    from rich.table import Table

    from hubless.report.comparison import write_comparison

    rows = [_row(arm, results[arm.name][0]) for arm in ARMS]
    table = Table(title=f"test accuracy of live, honest peers ({seconds:.0f} s)", title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("run", "what it is") else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.print()
    console.print(table)
    heading = "A hub that dies, and populations that have none"
    page = write_comparison(folder, heading, results, rows, verdict=_verdict(results))
    console.print("\nOne page with the four of them:", highlight=False)
    console.print(f"  {page}", soft_wrap=True, highlight=False)
    console.print("A report for each run, with its topology, data and peers:", highlight=False)
    for arm in ARMS:
        console.print(f"  {folder / arm.name / 'report.html'}", soft_wrap=True, highlight=False)


def _verdict(results: dict[str, list[Result]]) -> str:
    end = {name: f"{100 * runs[0].final('accuracy'):.0f} %" for name, runs in results.items()}
    return (
        f"The hub died in round {DEATH}, and its peers stayed at {end['hub']}. With the aggregator's role handed "
        f"round, the same peers reached {end['rotating']}; with no aggregator at all, {end['gossip']}. "
        f"A plain average, which believes the hostile peers, ends at {end['gullible']}."
    )


def _row(arm: Arm, result: Result) -> dict[str, str]:
    before = [r.metrics["accuracy"] for r in result.records if r.round <= DEATH and "accuracy" in r.metrics]
    sent = result.final("bytes") / WORLD["peers"] / 1e6
    return {
        "run": arm.name,
        f"after round {DEATH}": f"{100 * before[-1]:.1f} %",
        "at the end": f"{100 * result.final('accuracy'):.1f} %",
        "MB a peer": f"{sent:.1f}",
        "what it is": arm.story,
    }
