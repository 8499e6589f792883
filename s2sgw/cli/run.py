"""`s2sgw run`: twistd's runner with only the options that a gateway needs."""

from __future__ import annotations

from pathlib import Path

import click

from s2sgw.cli.output import CONFIGURATION, ConfigPath, config_option, configuration_path


@click.command()
@config_option
@click.option("--log-file", metavar="FILE", help="Write the log to FILE (default: standard output).")
def run(config: ConfigPath, log_file: str | None) -> None:
    """Run the gateway in the foreground. SIGTERM or SIGINT stops it gracefully.

    Exit status 2 if the configuration has errors.
    """
    run_gateway(configuration_path(config, None), log_file)


def run_gateway(config: Path, log_file: str | None) -> None:
    """Run `twistd s2sgw` in the foreground without a pid file; return when the gateway has stopped.

    Raises `SystemExit`: status 2 if the configuration has errors (they are printed), 1 if the gateway cannot start.
    """
    from twisted.python import usage
    from twisted.scripts._twistd_unix import ServerOptions
    from twisted.scripts.twistd import runApp

    options = ServerOptions()
    more = [] if log_file is None else ["--logfile", log_file]
    try:
        options.parseOptions(["--nodaemon", "--pidfile=", *more, "s2sgw", "--config", str(config)])
        runApp(options)
    except usage.UsageError as error:
        click.echo(str(error), err=True)
        raise SystemExit(CONFIGURATION) from None
