"""`s2sgw reload`, `drain`, `close`, `deny`, `forget`, `log level`: the commands that change or stop the running gateway."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from s2sgw.cli import tables
from s2sgw.cli.output import (
    CONFIGURATION,
    NO,
    ConfigPath,
    JSONForm,
    asked,
    config_option,
    end_with_missing,
    json_option,
    peer_argument,
    show,
)
from s2sgw.cli.text_table import JSONRow, Screen
from s2sgw.reporting.printable import printable


@click.command()
@config_option
@json_option
def drain(config: ConfigPath, as_json: JSONForm) -> None:
    """Stop the gateway gracefully. It accepts nothing new, delivers what it can, and keeps the rest for the next start.

    If systemd has the ports, the next connection starts it again. To keep it down:
    systemctl stop s2sgw.socket s2sgw-direct.socket s2sgw
    """
    show(asked(config, as_json, "drain"), as_json, tables.draining)


@click.command()
@click.option("--keep-streams", is_flag=True, help="Keep all streams open, even those that the new policy forbids.")
@config_option
@json_option
def reload(keep_streams: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Reload the configuration, and close the streams that the new policy forbids.

    The gateway reads the file that it was started with. If the file has errors, or a change needs a restart, nothing changes.
    Exit status 2.
    """
    answer = asked(config, as_json, "reload", keep_streams=keep_streams)
    if config is not None and not as_json and Path(answer["config"]).resolve() != Path(config).resolve():
        click.echo(f"note: the gateway was started with {answer['config']}, and reads that file, not {config}", err=True)
    if as_json or answer["ok"]:
        show(answer, as_json, tables.reloaded)
    else:
        click.echo(tables.refused(answer), err=True)
    if not answer["ok"]:
        sys.exit(CONFIGURATION)


@click.command()
@peer_argument(required=True)
@config_option
@json_option
def close(peer: str, config: ConfigPath, as_json: JSONForm) -> None:
    """Close all streams with PEER. Both sides may open new ones at once; to prevent that, use `s2sgw deny`.

    Exit status 1 if no stream was open.
    """
    answer = asked(config, as_json, "close", peer=peer)
    show(answer, as_json, _closed)
    if not answer["closed"]:
        sys.exit(NO)


@click.command()
@peer_argument()
@click.option("--undo", is_flag=True, help="Allow PEER again, as far as the configuration does.")
@click.option("--list", "listed", is_flag=True, help="List the peers that are denied by this command.")
@config_option
@json_option
def deny(peer: str | None, undo: bool, listed: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Deny PEER at once and until you undo it, also after a restart.

    Its streams are closed, and stanzas that wait for it are bounced. PEER can be "*.example.net" for all subdomains.
    The configuration does not change. In a cluster, all nodes deny it, also one that is away now.
    Exit status 1 if nothing changed.
    """
    if peer is None and not listed:
        raise click.UsageError("Name a PEER, or use --list.")
    if listed and (peer is not None or undo):
        raise click.UsageError("--list takes no PEER and no --undo: it lists all.")
    if listed:
        show(asked(config, as_json, "deny list"), as_json, tables.denied)
        return
    answer = asked(config, as_json, "deny", peer=peer, undo=undo)
    show(answer, as_json, tables.denial)
    end_with_missing(answer.get("missing", ()), as_json)
    if not answer["changed"]:
        sys.exit(NO)


@click.command()
@peer_argument(required=True)
@click.option("--keys", is_flag=True, help="Also forget the keys that you approved or revoked.")
@config_option
@json_option
def forget(peer: str, keys: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Forget what s2sgw remembers of PEER: how it was verified, keys of a first use, pending certificates, refusals.

    The next connection is then the first one. Open streams and waiting stanzas stay.
    """
    answer = asked(config, as_json, "forget", peer=peer, keys=keys)
    show(answer, as_json, tables.forgotten)
    end_with_missing(answer.get("missing", ()), as_json)


@click.group()
def log() -> None:
    """Show or change what is logged."""


@log.command("level", short_help="Show or change the level of the log.")
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warn", "error", "critical"]))
@config_option
@json_option
def log_level(level: str | None, config: ConfigPath, as_json: JSONForm) -> None:
    """Show the lowest level that is logged, or set it to LEVEL until the next start or reload."""
    answer = asked(config, as_json, "log level", **({} if level is None else {"level": level}))
    show(answer, as_json, _level if level is None else _level_change)


def _closed(row: JSONRow, _screen: Screen) -> str:
    peer = printable(tables.domain_text(row["peer"]))
    return f"{tables.counted(row['closed'], 'stream')} with {peer} closed{tables.by_node(row)}."


def _level(row: JSONRow, _screen: Screen) -> str:
    return str(row["level"])


def _level_change(row: JSONRow, _screen: Screen) -> str:
    return f"{row['before']} -> {row['level']}"
