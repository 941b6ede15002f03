"""``hubless merge A B ... --method ties -o OUT``: several models on disk become one."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from hubless.errors import ConfigError

app = typer.Typer(add_completion=False, rich_markup_mode="rich")
METHODS = "mean, slerp, task-arithmetic, ties, dare, dare-ties, fisher, regmean"


@app.command()
def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="Files in safetensors format, model or adapter folders.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The merged model, of the first one's form.")],
    method: Annotated[str, typer.Option(help=f"{METHODS}; with values as ties:0.5:scale=0.8.")] = "mean",
    base: Annotated[Path | None, typer.Option(help="What all models were fine-tuned from.")] = None,
    weights: Annotated[str, typer.Option(metavar="W1,W2,...", help="One a model; by default 1 each.")] = "",
    density: Annotated[float | None, typer.Option(help="Of ties, dare and dare-ties: share that is kept.")] = None,
    scale: Annotated[float | None, typer.Option(help="Of the joint task vector; often called lambda.")] = None,
    statistics: Annotated[
        list[Path] | None,
        typer.Option(help="Of fisher and regmean: what is known of each model; once a model, in their order."),
    ] = None,
    dtype: Annotated[
        Literal["float64", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Of the merged model; by default each tensor's own in the first model."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of dare and dare-ties: what is dropped.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT when it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Merge models of one shape, a tensor at a time, so that memory stays at about one tensor a model."""
    import torch

    from hubless.merging.files import check_out, prepare
    from hubless.parts import make
    from hubless.run.progress import Lines, human_bytes, human_seconds

    given = {"density": density, "scale": scale}
    rule = make("rule", ":".join([method, *(f"{k}={v}" for k, v in given.items() if v is not None)]), where="method")
    merging = prepare(
        rule, models, base=base, weights=_numbers(weights), statistics=statistics or (),
        dtype=getattr(torch, dtype) if dtype else None, seed=seed,
    )  # fmt: skip
    check_out(out, merging.first, force)
    began, size = time.monotonic(), sum(form.bytes for form in merging.forms.values())
    lines = Lines("merge", len(merging.forms))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that nothing half-written stays
    try:
        if quiet:
            merging.write(out, force)
        else:
            with lines:
                merging.write(out, force, lambda name, _: lines.advance(name))
    finally:
        signal.signal(signal.SIGTERM, before)
    lines.say(
        f"{out}: {method} of {len(models)} models, {len(merging.forms):,} tensors, {human_bytes(size)} in"
        f" {human_seconds(time.monotonic() - began)}"
    )
    if merging.averaged:
        lines.say(f"{merging.averaged:,} tensors without statistics are plain means")


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(word) for word in text.split(",")] if text else None
    except ValueError:
        raise ConfigError(f"weights = {text!r} must be numbers with commas in between, one a model") from None
