"""`s2sgw run`: twistd's runner with only the options that a gateway needs."""

from __future__ import annotations

from pathlib import Path

from twisted.python import usage
from twisted.scripts._twistd_unix import ServerOptions
from twisted.scripts.twistd import runApp

from s2sgw.cli.output import CONFIGURATION


def run_gateway(config: Path, log_file: str | None) -> None:
    """Run `twistd s2sgw` in the foreground without a pid file; return when the gateway has stopped.

    Raises `SystemExit`: status 2 if the configuration has errors (they are printed), 1 if the gateway cannot start.
    """
    options = ServerOptions()
    more = [] if log_file is None else ["--logfile", log_file]
    try:
        options.parseOptions(["--nodaemon", "--pidfile=", *more, "s2sgw", "--config", str(config)])
        runApp(options)
    except usage.UsageError as error:
        raise SystemExit(_complain(str(error))) from None


def _complain(text: str) -> int:
    import click

    click.echo(text, err=True)
    return CONFIGURATION
