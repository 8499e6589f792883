"""The connection of the `s2sgw` command to a running gateway: options, request, format of the response, exit status."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from s2sgw.admin.client import RequestFailed, ask, default_socket, follow, socket_path
from s2sgw.cli.text_table import Screen
from s2sgw.reporting.printable import printable
from s2sgw.runtime.configuration_file import VARIABLE, NoConfiguration, find_configuration

#: Version of the JSON that the command prints with --json-v1, and in errors.
JSON_VERSION = 1
NO, CONFIGURATION, NO_ANSWER = 1, 2, 4
#: The kind of an error -> its exit status.
ERROR_STATUS = {
    "failed": NO, "usage": CONFIGURATION, "configuration": CONFIGURATION, "not-running": 3,
    "denied": NO_ANSWER, "no-answer": NO_ANSWER, "internal": NO_ANSWER,
}

#: Blanks for each level of JSON.
INDENT = 2
#: The value of --config, and of --json ("result") or --json-v1 ("v1").
ConfigPath = Path | None
JSONForm = str | None
Render = Callable[[Any, Screen], str]


def _or_before_the_verb(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return the option's value. If it is not given after the command, return the value given before the command."""
    name = str(option.name)
    root = context.find_root()
    given_here = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    given_before = context is not root and root.get_parameter_source(name) is ParameterSource.COMMANDLINE
    return root.params[name] if given_before and not given_here else value


config_option = click.option(
    "--config", "-c", type=click.Path(path_type=Path), metavar="FILE", callback=_or_before_the_verb,
    help=f"Configuration file. Default: ${VARIABLE}, ./s2sgw.toml, or /etc/s2sgw/s2sgw.toml.",
)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json and --json-v1 to a command. Its parameter `as_json` is None, "result" or "v1"."""
    plain = click.option("--json", "as_json", flag_value="result", callback=_or_before_the_verb, help="Print the result as JSON.")
    whole = click.option(
        "--json-v1", "as_json", flag_value="v1", callback=_or_before_the_verb,
        help="Print the result as JSON, in an object with a version.",
    )
    return plain(whole(command))


def _known_peers(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the peers whose names begin with `incomplete`, for the shell. Return none if the gateway does not answer at once."""
    try:
        config = context.params.get("config") or context.find_root().params.get("config")
        names = ask(_socket(config), "names", {"prefix": incomplete}, seconds=1)
    except (RequestFailed, NoConfiguration):
        return []
    return [name for name in names if isinstance(name, str) and name.isprintable()]


def peer_argument(*, required: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the decorator that adds the argument PEER. The shell can complete its names."""
    return click.argument("peer", required=required, shell_complete=_known_peers)


target_argument = click.argument("target", nargs=-1, required=True, shell_complete=_known_peers)
limit_option = click.option(
    "--limit", type=click.IntRange(1), metavar="NUMBER", default=1000, help="Maximum number of rows (default: 1000).",
)


here_option = click.option("--here", is_flag=True, help="Ask this node of a cluster alone.")


def asked_here(here: bool) -> dict[str, bool]:
    """Return the argument of a verb for --here."""
    return {"here": True} if here else {}


def duration_option(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of an option such as "10m" (the callback of the option)."""
    if value is None:
        return None
    from s2sgw.policy.values import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def configuration_path(config: ConfigPath, as_json: JSONForm) -> Path:
    """Return the path of the configuration file. Exit with status 2 if there is none."""
    try:
        return config or find_configuration()
    except NoConfiguration as error:
        fail(str(error), "configuration", as_json)


def _socket(config: ConfigPath) -> Path:
    """Return the path of the admin socket. Raises `RequestFailed` or `NoConfiguration`.

    A user who may use the socket of the service need not be able to read its configuration.
    """
    try:
        return socket_path(config or find_configuration())
    except (RequestFailed, NoConfiguration):
        found = None if config or os.environ.get(VARIABLE) else default_socket()
        if found is None:
            raise
        return found


def rows(
    config: ConfigPath, as_json: JSONForm, verb: str, render: Render, peer: str | None, limit: int, here: bool = False,
    **arguments: Any,
) -> None:
    """Print the rows of a verb, or only those of PEER. Exit with status 1 if PEER has none.

    In a cluster these are the rows of all nodes. Exit with status 4 if some are missing.
    """
    named = {} if peer is None else {"peer": peer}
    found = asked(config, as_json, verb, limit=limit, **named, **arguments, **asked_here(here))
    show_rows(found, as_json, render, peer is not None)


def show_rows(found: Any, as_json: JSONForm, render: Render, must_exist: bool) -> None:
    """Print rows. Exit with status 4 if rows of a node of a cluster are missing, or with 1 if there must be some and are none."""
    rows, missing = [row for row in found if "missing" not in row], [row for row in found if "missing" in row]
    if as_json:
        print_json(found, as_json)
    else:
        show(rows, as_json, render)
    end_with_missing(missing, as_json)
    if must_exist and not rows:
        sys.exit(NO)


def end_with_missing(missing: Sequence[Mapping[str, Any]], as_json: JSONForm) -> None:
    """Print what nodes of a cluster should have added to an answer, if anything is missing, and exit with status 4."""
    if not as_json:
        for row in missing:
            click.echo(printable(f"node {row['node']}: {row['missing']}", 2000))
    if missing:
        sys.exit(NO_ANSWER)


def asked(config: ConfigPath, as_json: JSONForm, verb: str, **arguments: Any) -> Any:
    """Return the response of the running gateway. If there is none, exit."""
    try:
        return ask(_socket(config), verb, arguments)
    except NoConfiguration as error:
        fail(str(error), "configuration", as_json)
    except RequestFailed as error:
        fail(str(error), error.kind, as_json)


def followed(config: ConfigPath, as_json: JSONForm, verb: str, **arguments: Any) -> Iterator[Any]:
    """Yield the results of the running gateway until it stops. If there is none, or when it stops, print a line and exit."""
    try:
        yield from follow(_socket(config), verb, arguments)
    except NoConfiguration as error:
        fail(str(error), "configuration", as_json, indent=None)
    except RequestFailed as error:
        fail(str(error), error.kind, as_json, indent=None)


def fail(text: str, kind: str, as_json: JSONForm, indent: int | None = INDENT) -> NoReturn:
    """Print why the command failed, then exit. `kind` is a key of `ERROR_STATUS`. `indent` None: JSON is one line."""
    if as_json:
        print_error(text, kind, indent)
    else:
        first, *more = text.split("\n")
        click.echo("\n".join([printable(first, 2000), *(f"  {printable(line.strip(), 2000)}" for line in more)]), err=True)
    sys.exit(ERROR_STATUS[kind])


def print_error(text: str, kind: str, indent: int | None = INDENT) -> None:
    """Print an error as JSON. Its shape is the same for --json and --json-v1."""
    _print({"version": JSON_VERSION, "ok": False, "error": text, "kind": kind, "status": ERROR_STATUS[kind]}, indent)


def show(answer: Any, as_json: JSONForm, render: Render) -> None:
    """Print a response, as JSON or as `render` formats it."""
    if as_json:
        print_json(answer, as_json)
    else:
        click.echo(render(answer, this_screen()))


def this_screen() -> Screen:
    """Return the terminal of the standard output. A pipe or a file is as wide as its lines, and has no bold text."""
    if sys.stdout is None or not sys.stdout.isatty():  # None: the caller has closed it
        return Screen(None, bold=False)
    dumb = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
    return Screen(shutil.get_terminal_size().columns, bold=not dumb)


def print_json(answer: Any, form: str) -> None:
    """Print a result as JSON. `form` "v1": in an object with the version, the same for each command and for errors."""
    _print({"version": JSON_VERSION, "ok": True, "result": answer} if form == "v1" else answer)


def _print(answer: Any, indent: int | None = INDENT) -> None:
    """Print JSON in ASCII, so that text of a peer cannot control the terminal."""
    click.echo(json.dumps(answer, indent=indent))
