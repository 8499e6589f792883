"""How the `s2sgw` command sends a request to a running gateway and prints the response: options, formats, exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from rich.console import Console, RenderableType

from s2sgw.admin.client import RequestFailed, ask, socket_path
from s2sgw.reporting.printable import printable

#: The configuration that is used if none is named: the first that exists, or else the first.
DEFAULT_CONFIGS = (Path("s2sgw.toml"), Path("/etc/s2sgw/s2sgw.toml"))
NO, CONFIGURATION = 1, 2
#: Width in characters of a table that goes to a file or a pipe.
PIPE_WIDTH = 250

Render = Callable[[Any], RenderableType]


def _or_before_the_verb(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return the option's value. If it is not given after the command, return the value given before the command."""
    name = str(option.name)
    root = context.find_root()
    given_here = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    given_before = context is not root and root.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return root.params[name] if given_before and not given_here else value


def _default_config() -> Path:
    return next((path for path in DEFAULT_CONFIGS if path.exists()), DEFAULT_CONFIGS[0])


config_option = click.option(
    "--config", "-c", type=click.Path(path_type=Path), default=_default_config, envvar="S2SGW_CONFIG",
    show_default="s2sgw.toml, or /etc/s2sgw/s2sgw.toml",
    callback=_or_before_the_verb, help="Configuration file of the gateway.",
)
json_option = click.option("--json", "as_json", is_flag=True, callback=_or_before_the_verb, help="Print JSON.")
peer_argument = click.argument("peer", required=False)
limit_option = click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Maximum number of rows.")


def rows(config: Path, as_json: bool, verb: str, render: Render, peer: str | None, limit: int, **arguments: Any) -> None:
    """Print the rows of a verb, or only those of PEER. Exit with status 1 if PEER has none."""
    named = {} if peer is None else {"peer": peer}
    found = asked(config, as_json, verb, limit=limit, **named, **arguments)
    show(found, as_json, render)
    if peer is not None and not found:
        sys.exit(NO)


def asked(config: Path, as_json: bool, verb: str, **arguments: Any) -> Any:
    """Return the response of the running gateway. Exit if there is none."""
    try:
        return ask(socket_path(config), verb, arguments)
    except RequestFailed as error:
        fail(str(error), error.status, as_json)


def fail(text: str, exit_status: int, as_json: bool) -> NoReturn:
    """Print why the command failed, then exit."""
    if as_json:
        print_json({"ok": False, "error": text})
    else:
        click.echo(printable(text, 2000), err=True)
    sys.exit(exit_status)


def show(answer: Any, as_json: bool, render: Render) -> None:
    """Print a response, as JSON or as `render` formats it."""
    if as_json:
        print_json(answer)
    else:
        console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        console.print(render(answer))


def print_json(answer: Any) -> None:
    """Print JSON in ASCII, so that text of a peer cannot control the terminal."""
    click.echo(json.dumps(answer, indent=2))
