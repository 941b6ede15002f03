"""The command line: one module a verb, imported when it is asked for.

An error that hubless raises on purpose is one line on stderr and exit code 2; a failing peer keeps its
traceback and exits with 1; Ctrl-C exits with 130.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hubless import __version__
from hubless.errors import ConfigError, HublessError, NonFiniteError, PeerError, did_you_mean

VERBS = (
    "list", "show", "run", "verify", "compare", "grid", "report", "data", "models", "merge", "node", "deploy", "doctor",
    "new", "demo",
)  # fmt: skip
HIDDEN = ("docs",)  # for the makers of hubless
USAGE: type[Exception] = typer.BadParameter.__bases__[0]  # base of all complaints about arguments


class Verbs(TyperGroup):
    """The verbs, in the order a newcomer needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs that ``--help`` shows."""
        return [verb for verb in VERBS if importlib.util.find_spec(f"hubless.cli.{verb}")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the verb's module; raises ConfigError for an unknown verb."""
        known = self.list_commands(ctx)
        if cmd_name not in (*known, *HIDDEN):
            raise ConfigError(f"unknown command {cmd_name!r}; {did_you_mean(cmd_name, known)}")
        command = typer.main.get_command(importlib.import_module(f"hubless.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hubless {__version__}")
        raise typer.Exit


@app.callback()
def hubless(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """AI with no hub: populations of peers that learn and coordinate without a central server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code."""
    words = [*(sys.argv[1:] if arguments is None else arguments)]  # once imported, ``list`` is a verb in here
    try:
        done = typer.main.get_command(app).main(words or ["--help"], prog_name="hubless", standalone_mode=False)
    except NonFiniteError as error:
        return _complain(str(error))
    except PeerError as error:
        traceback.print_exception(error)
        return 1
    except HublessError as error:
        return _complain(str(error))
    except USAGE as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return done if isinstance(done, int) else 0


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
