"""The `s2sgw` command: asks the running gateway over its admin socket, or checks its configuration.

Exit status: 0 success; 1 a negative answer (nothing known of PEER, a certificate missing or expired, the request failed);
2 usage or configuration error; 3 the gateway is not running.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.text import Text

from s2sgw import __version__
from s2sgw.backend.private_ca import PrivateCA, PrivateCAError
from s2sgw.cli import setup_files, tables, trust
from s2sgw.cli.output import (
    CONFIGURATION,
    NO,
    asked,
    config_option,
    fail,
    json_option,
    limit_option,
    peer_argument,
    print_json,
    rows,
    show,
)
from s2sgw.cli.setup import SERVERS, SetupError, authority_file, setup_text
from s2sgw.config import ConfigError
from s2sgw.reporting.printable import printable
from s2sgw.runtime.preflight import check_configuration
from s2sgw.xmpp.jid import Domain, InvalidJID


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="s2sgw", message="%(prog)s %(version)s")
@config_option
@json_option
def main(config: Path, as_json: bool) -> None:
    """Ask a running s2sgw, or check its configuration.

    --config and --json may stand before or after the command.

    \b
    Exit status: 0 success, 1 negative answer, 2 usage or configuration error, 3 not running.
    """


# --- the configuration -----------------------------------------------------------------------------------------------


@main.command()
@config_option
@json_option
def check(config: Path, as_json: bool) -> None:
    """Check the configuration: list everything that is wrong with it, and start nothing."""
    try:
        ready = check_configuration(config)
    except ConfigError as error:
        _complain(error, as_json)
    path = str(ready.config.path)
    if as_json:
        print_json({"ok": True, "config": path, "complaints": [], "warnings": list(ready.warnings)})
        return
    for warning in ready.warnings:
        click.echo(f"warning: {printable(warning)}", err=True)
    click.echo(f"{path} is good, for {', '.join(map(str, ready.config.gateway.domains))}")


@main.group(invoke_without_command=False)
def setup() -> None:
    """Print what a running system needs: a configuration, systemd units, the lines for your XMPP server."""


@setup.command("config")
@click.option("--domain", "domains", multiple=True, required=True, metavar="DOMAIN", help="A domain of your server; repeatable.")
@click.option("--server", type=click.Choice(list(SERVERS)), default="prosody", show_default=True, help="What your server is.")
def setup_config(domains: tuple[str, ...], server: str) -> None:
    """Print a configuration file for your domains, to be saved as /etc/s2sgw/s2sgw.toml."""
    try:
        names = [Domain.parse(domain).text for domain in domains]
    except InvalidJID as error:
        fail(str(error), CONFIGURATION, False)
    click.echo(setup_files.configuration(names, server), nl=False)


@setup.command("systemd")
@click.option("--program", metavar="FILE", help="The s2sgw command that the unit starts (default: this one).")
@click.option("--install", is_flag=True, help="Write the files to their places instead of printing them.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
def setup_systemd(program: str | None, install: bool, root: Path) -> None:
    """Print (or install) the systemd units, sockets and the system user for s2sgw."""
    texts = setup_files.systemd_files(program or setup_files.program())
    if not install:
        click.echo("\n".join(texts.values()), nl=False)
        return
    try:
        for place in setup_files.install(texts, root):
            click.echo(f"written: {place}")
    except (OSError, setup_files.FileExists) as error:
        fail(str(error), CONFIGURATION, False)
    click.echo("Next: systemd-sysusers && systemctl daemon-reload && systemctl enable --now s2sgw")


def _setup_server(server: str) -> click.Command:
    """Return the command that prints the lines for `server`."""

    @click.command(server, help=f"Print the lines that put {server} behind this gateway, and write the CA that it is to trust.")
    @click.option("--local", metavar="DOMAIN", help="A domain of the backend, if there are several backends.")
    @config_option
    @json_option
    def command(local: str | None, config: Path, as_json: bool) -> None:
        _print_lines(server, local, config, as_json)

    return command


def _print_lines(server: str, local: str | None, config: Path, as_json: bool) -> None:
    try:
        ready = check_configuration(config)
        text = setup_text(server, ready.config, None if local is None else Domain.parse(local))
        PrivateCA(ready.config.gateway.state)
    except ConfigError as error:
        _complain(error, as_json)
    except (SetupError, PrivateCAError, InvalidJID) as error:
        fail(str(error), CONFIGURATION, as_json)
    authority = str(authority_file(ready.config))
    if as_json:
        print_json({"server": server, "lines": text, "authority": authority})
    else:
        click.echo(text)
        click.echo(f"The authority that these lines trust is in {authority}", err=True)


for _server in SERVERS:
    setup.add_command(_setup_server(_server))


@main.command()
@config_option
@click.option("--log-file", metavar="FILE", help="Write the log there (default: standard output).")
def run(config: Path, log_file: str | None) -> None:
    """Run the gateway in the foreground, until SIGTERM or SIGINT. Exit status 2 if the configuration has errors."""
    from s2sgw.cli.run import run_gateway

    run_gateway(config, log_file)


def _complain(error: ConfigError, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "config": str(error.path), "complaints": error.complaints, "warnings": []})
    else:
        click.echo(f"{error.path} cannot be used:", err=True)
        for complaint in error.complaints:
            click.echo(f"  {printable(complaint)}", err=True)
    sys.exit(CONFIGURATION)


# --- the running gateway ---------------------------------------------------------------------------------------------


@main.command()
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show what the gateway is doing, at a glance."""
    show(asked(config, as_json, "status"), as_json, tables.status)


@main.command()
@peer_argument
@limit_option
@config_option
@json_option
def streams(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List the open streams (of PEER): pairs, how each was proven, TLS."""
    rows(config, as_json, "streams", tables.streams, peer, limit)


@main.command()
@peer_argument
@limit_option
@config_option
@json_option
def lanes(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List the lanes (to and from PEER): what waits, and why. A lane is the delivery queue of one pair of domains."""
    rows(config, as_json, "lanes", tables.lanes, peer, limit)


@main.command()
@peer_argument
@limit_option
@config_option
@json_option
def peers(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List the peers (or PEER alone): streams each way, what waits, what was refused."""
    rows(config, as_json, "peers", tables.peers, peer, limit)


@main.command()
@peer_argument
@limit_option
@click.option(
    "--letter", is_flag=True, help="Show the last one as a text for the other administrator; with --json, add it to each row.",
)
@config_option
@json_option
def refusals(peer: str | None, limit: int, letter: bool, config: Path, as_json: bool) -> None:
    """List the last refusals (of PEER): layer, cause, evidence and remedy."""
    if letter:
        rows(config, as_json, "refusals", tables.letter, peer, limit if as_json else 1, letter=True)
    else:
        rows(config, as_json, "refusals", tables.refusals, peer, limit)


@main.command()
@config_option
@json_option
def certs(config: Path, as_json: bool) -> None:
    """List the certificates of the local domains. Exit status 1 if one is missing or has expired."""
    found = asked(config, as_json, "certs")
    show(found, as_json, tables.certificates)
    if any(row["left"] is None or row["left"] <= 0 for row in found):
        sys.exit(NO)


@main.command()
@config_option
@json_option
def drain(config: Path, as_json: bool) -> None:
    """Stop the gateway gracefully: accept nothing new, deliver what can be delivered, keep the rest for the next start."""
    show(asked(config, as_json, "drain"), as_json, tables.draining)


@main.command()
@click.option("--keep-streams", is_flag=True, help="Close no stream, even if the new policy refuses it.")
@config_option
@json_option
def reload(keep_streams: bool, config: Path, as_json: bool) -> None:
    """Read the configuration again, all of it or nothing, and close the streams that the new policy refuses."""
    answer = asked(config, as_json, "reload", keep_streams=keep_streams)
    if not as_json and not answer["ok"]:
        _complain(ConfigError(Path(answer["config"]), answer["complaints"]), as_json)
    show(answer, as_json, tables.reloaded)
    if not answer["ok"]:
        sys.exit(CONFIGURATION)


# --- the queue -------------------------------------------------------------------------------------------------------

_target = click.argument("target", nargs=-1, required=True)


@main.group()
def queue() -> None:
    """Show and change what waits.

    TARGET is one PEER (all lanes from and to it), one lane as FROM TO (two domains), or one stanza as FROM TO NUMBER.
    Every change is in the audit log.
    """


@queue.command("list")
@peer_argument
@click.option("--poison", is_flag=True, help="List the stanzas on which a server closed its stream instead.")
@limit_option
@config_option
@json_option
def queue_list(peer: str | None, poison: bool, limit: int, config: Path, as_json: bool) -> None:
    """List what waits, by peer (or for PEER alone): how much, since when, and why."""
    verb, render = ("queue poison", tables.poison) if poison else ("queue list", tables.queue)
    rows(config, as_json, verb, render, peer, limit)


@queue.command("show")
@_target
@limit_option
@config_option
@json_option
def queueshow(target: tuple[str, ...], limit: int, config: Path, as_json: bool) -> None:
    """List the stanzas of TARGET in order; show a single one with its text."""
    found = asked(config, as_json, "queue show", target=_words(target), limit=limit)
    show(found, as_json, tables.stanzas)
    if not found:
        sys.exit(NO)


@queue.command("hold")
@_target
@config_option
@json_option
def queue_hold(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Deliver nothing of TARGET until it is released. What waits too long is still bounced."""
    _change(config, as_json, "queue hold", target, "held")


@queue.command("release")
@_target
@config_option
@json_option
def queue_release(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """End the holds of TARGET, and deliver. Exit status 1 if nothing of it was held."""
    if _change(config, as_json, "queue release", target, "released")["holds"] == 0:
        sys.exit(NO)


@queue.command("drop")
@_target
@click.option("--quietly", is_flag=True, help="Do not tell the senders.")
@config_option
@json_option
def queue_drop(target: tuple[str, ...], quietly: bool, config: Path, as_json: bool) -> None:
    """Give up what waits of TARGET: it is bounced to its senders."""
    if _change(config, as_json, "queue drop", target, "dropped", quietly=quietly)["stanzas"] == 0:
        sys.exit(NO)


@queue.command("flush")
@_target
@config_option
@json_option
def queue_flush(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Try to deliver TARGET now, before the next planned attempt."""
    if _change(config, as_json, "queue flush", target, "to be tried now")["lanes"] == 0:
        sys.exit(NO)


def _words(target: tuple[str, ...]) -> list[str | int]:
    return [int(word) if at == 2 and word.isdecimal() else word for at, word in enumerate(target)]


def _change(config: Path, as_json: bool, verb: str, target: tuple[str, ...], done: str, **more: object) -> Any:
    answer = asked(config, as_json, verb, target=_words(target), **more)
    show(answer, as_json, partial(_changed, done))
    return answer


def _changed(done: str, row: tables.JSONRow) -> Text:
    return Text(f"{row['stanzas']} stanzas in {row['lanes']} lanes {done}")


for _each in trust.COMMANDS:
    main.add_command(_each)
