"""How the `s2sgw` command asks a running gateway and shows what it answers: the options, the formats, the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console, RenderableType

from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.reporting.printable import printable

DEFAULT_CONFIG = "s2sgw.toml"
NO, CONFIGURATION = 1, 2
#: Columns of a table that goes to a file or a pipe.
PIPE_WIDTH = 250

Render = Callable[[Any], RenderableType]

config_option = click.option(
    "--config", "-c", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, envvar="S2SGW_CONFIG", show_default=True,
    help="The gateway's configuration.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
peer_argument = click.argument("peer", required=False)
limit_option = click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Maximum number of rows.")


def rows(config: Path, as_json: bool, verb: str, render: Render, peer: str | None, limit: int, **arguments: Any) -> None:
    """Show the rows of a verb, of PEER alone where it is named: no rows is then a no."""
    named = {} if peer is None else {"peer": peer}
    found = asked(config, as_json, verb, limit=limit, **named, **arguments)
    show(found, as_json, render)
    if peer is not None and not found:
        sys.exit(NO)


def asked(config: Path, as_json: bool, verb: str, **arguments: Any) -> Any:
    """The answer of the running gateway; where there is none the command ends."""
    try:
        return ask(socket_path(config), verb, arguments)
    except RequestFailed as error:
        fail(str(error), error.status, as_json)


def fail(text: str, exit_status: int, as_json: bool) -> NoReturn:
    """Say why not, and end."""
    if as_json:
        print_json({"ok": False, "error": text})
    else:
        click.echo(printable(text, 2000), err=True)
    sys.exit(exit_status)


def show(answer: Any, as_json: bool, render: Render) -> None:
    """The answer as JSON, or as `render` makes it."""
    if as_json:
        print_json(answer)
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        console.print(render(answer))


def print_json(answer: Any) -> None:
    """In ASCII: what a stranger said cannot steer the terminal."""
    click.echo(json.dumps(answer, indent=2))
