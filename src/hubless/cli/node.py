"""``hubless node``: one peer of a recipe in one process, with others over a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hubless import catalogue
from hubless.cli import arguments
from hubless.errors import ConfigError, DataError

app = typer.Typer(add_completion=False)


@app.command(context_settings=arguments.OPEN)
def node(
    context: typer.Context,
    peer: Annotated[
        str, typer.Option(help="Which peer it is; several, joined by commas, for identities of one attacker.")
    ],
    recipe: Annotated[str, typer.Option(help="A recipe's name, or the path of its file.")] = "",
    config: Annotated[
        Path | None, typer.Option(help="config.json of a run: its recipe and options, in place of naming them.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of the recipe's options.")] = None,
    join: Annotated[list[str] | None, typer.Option(help="KEY@HOST:PORT of a node that runs; may be repeated.")] = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 is any free one.")] = "127.0.0.1:0",
    key: Annotated[
        Path | None, typer.Option(help="File of its key, mode 600; made if missing. Without: a new key.")
    ] = None,
    allow: Annotated[
        Path | None, typer.Option(help="File of the keys that may take part, one a line. Without: all.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of its state after each round, from which it goes on when started again."),
    ] = None,
    watch: Annotated[str, typer.Option(help="KEY@HOST:PORT of an observer that hears of every round.")] = "",
    round_seconds: Annotated[float, typer.Option(help="Seconds a round may take while somebody is missing.")] = 10.0,
    grace: Annotated[float, typer.Option(help="Seconds to wait for the last messages once most are there.")] = 5.0,
    wait_for: Annotated[int, typer.Option(help="Peers with which round 1 begins; 0: all.")] = 0,
    gather_seconds: Annotated[float, typer.Option(help="Seconds after which it begins with fewer.")] = 60.0,
    log: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    tethered: Annotated[bool, typer.Option("--tethered", hidden=True)] = False,
) -> None:
    """One peer in one process: the same parts as in the simulator, over TCP with TLS.

    All nodes of a group are given the same recipe and options; data and partition follow from them.
    """
    name, options = _chosen(recipe, config, preset, context.args)
    peers = _peers(peer)
    from hubless.learn.node.node import Pace
    from hubless.learn.node.process import Contact, Place, serve
    from hubless.run.runner import settle

    pace = Pace(round_seconds, grace, wait_for, gather_seconds)
    contacts = tuple(Contact.of(text) for text in join or [])
    watcher = Contact.of(watch, "watch") if watch else None
    loaded = catalogue.find(name).load()
    place = Place(listen, key, allow, home, contacts, watcher, tethered, pace)
    serve(loaded, settle(loaded, options), peers, place, log)


def _chosen(recipe: str, config: Path | None, preset: str | None, words: list[str]) -> tuple[str, dict[str, Any]]:
    """The recipe's name or path, and the options, from the command line or a run's config.json."""
    if bool(recipe) == (config is not None):
        raise ConfigError("node takes --recipe NAME, or --config RUN/config.json, and not both")
    options: dict[str, Any] = {}
    if config is not None:
        if preset:
            raise ConfigError("preset: --config has all options already")
        try:
            body = json.loads(config.read_text(encoding="utf-8"))
            recipe, options = body["source"], dict(body["options"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{config} is not the config.json of a run ({error!r})") from None
    entry = catalogue.find(recipe)
    options |= arguments.options(entry.name, entry.schema().options, words)
    return recipe, entry.resolve(options, preset)


def _peers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"peer = {text!r}: must be the number of a peer, from 0")
    return tuple(dict.fromkeys(int(part) for part in parts))
