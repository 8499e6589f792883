"""`s2sgw check`: checks whether the gateway can start with its configuration and certificates."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import NoReturn

import click

from s2sgw.admin.client import CONNECT_SECONDS, RequestFailed, socket_path
from s2sgw.cli import tables
from s2sgw.cli.output import (
    CONFIGURATION,
    JSON_VERSION,
    NO,
    ConfigPath,
    JSONForm,
    asked,
    config_option,
    configuration_path,
    json_option,
    print_json,
    show,
)
from s2sgw.config import Config, ConfigError
from s2sgw.reporting.printable import printable
from s2sgw.runtime.owner_access import faults_of_owner
from s2sgw.runtime.preflight import check_configuration


@click.command()
@click.option("--live", is_flag=True, help="Also check your server, the DNS, certificates, clock, disk, and open files, now.")
@click.option("--against-running", is_flag=True, help="Compare with the running gateway: show what a reload would change.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing if there are no errors and no warnings.")
@config_option
@json_option
def check(live: bool, against_running: bool, quiet: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Check the configuration and the certificates, and report all errors. The gateway is not started.

    Exit status with --live: 1 if one of the live checks failed. With --against-running: 1 if a restart is needed.
    """
    if live and against_running:
        raise click.UsageError("--live and --against-running answer two questions: use one of them.")
    path = configuration_path(config, as_json)
    if against_running:
        _compare(path, as_json)
    try:
        ready = check_configuration(path)
        owner = faults_of_owner(ready.config)
        if owner.errors:
            raise ConfigError(path, owner.errors)
        in_use = _ports_in_use(ready.config)
    except ConfigError as error:
        complain(error, as_json)
    warnings = [*ready.warnings, *owner.warnings, *in_use]
    if as_json and not live:
        print_json({"ok": True, "config": str(ready.config.path), "complaints": [], "warnings": warnings}, as_json)
        return
    if not as_json:
        for warning in warnings:
            click.echo(f"warning: {printable(warning)}", err=True)
    if not as_json and not quiet:
        number = f" ({tables.counted(len(warnings), 'warning')})" if warnings else ""
        click.echo(f"{ready.config.path} is good, for {', '.join(map(str, ready.config.gateway.domains))}{number}")
    if live:
        from s2sgw.cli.live_check import run_live_check

        run_live_check(ready.config, tuple(warnings), as_json)


def _ports_in_use(config: Config) -> list[str]:
    """Return a warning for each port of a node that another process has. Raises `ConfigError` if it must be shared.

    A gateway with this configuration that runs has its ports.
    """
    if config.cluster.node is None or _runs(config):
        return []
    from s2sgw.runtime.taken_ports import taken_ports

    taken = taken_ports(config)
    if taken.shared:
        raise ConfigError(config.path, taken.shared)
    return taken.in_use


def _runs(config: Config) -> bool:
    """Return whether something listens on the admin socket, also if it hangs or the user may not connect."""
    try:
        path = socket_path(config.path)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(path))
    except (RequestFailed, FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return False
    except OSError:
        return True
    return True


def _compare(path: Path, as_json: JSONForm) -> NoReturn:
    """Show the changes that a reload makes, and those that need a restart."""
    answer = asked(path, as_json, "reload plan", **{"with": str(path.absolute())})
    if not as_json and answer["complaints"]:
        complain(ConfigError(Path(answer["config"]), answer["complaints"]), as_json)
    show(answer, as_json, tables.planned)
    sys.exit(0 if answer["ok"] else CONFIGURATION if answer["complaints"] else NO)


def complain(error: ConfigError, as_json: JSONForm) -> NoReturn:
    """Print the errors of a configuration, then exit."""
    if as_json:
        answer = {"version": JSON_VERSION, "ok": False, "config": str(error.path), "complaints": error.complaints, "warnings": []}
        print_json(answer, as_json)
    else:
        click.echo(tables.complaints(str(error.path), error.complaints), err=True)
    sys.exit(CONFIGURATION)
