"""``hubless report RUN``: rebuild the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Rebuild a run's figures and page from its records."""
    from hubless.report import page
    from hubless.run.folder import RunFolder

    typer.echo(page.write(RunFolder.open(run).path))
