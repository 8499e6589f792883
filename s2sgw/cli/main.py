"""The `s2sgw` command: send a request to the admin socket of the running gateway, or check its configuration.

Exit status: 0 success; 1 negative answer (no entry for PEER, a certificate is missing or expired, the request failed);
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
from s2sgw.cli import console, probe, report, setup_files, tables, trust
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
from s2sgw.cli.setup import SERVERS, SetupError, authority_file, inetrc_text, setup_text
from s2sgw.config import ConfigError
from s2sgw.reporting.printable import printable
from s2sgw.runtime.preflight import check_configuration
from s2sgw.storage.atomic_file import write_atomically
from s2sgw.xmpp.jid import Domain, InvalidJID


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="s2sgw", message="%(prog)s %(version)s")
@config_option
@json_option
def main(config: Path, as_json: bool) -> None:
    """Query or control a running s2sgw, or check its configuration.

    --config and --json may stand before or after the command.

    \b
    Exit status:
      0  success
      1  negative answer (e.g. no entry for PEER, certificate missing or expired)
      2  usage or configuration error
      3  the gateway is not running
    """


# --- the configuration -----------------------------------------------------------------------------------------------


@main.command(short_help="Check the configuration and certificates.")
@click.option("--live", is_flag=True, help="Also check your server, the DNS, certificates, clock, disk, and open files, now.")
@click.option("--against-running", is_flag=True, help="Compare with the running gateway: show what a reload would change.")
@config_option
@json_option
def check(live: bool, against_running: bool, config: Path, as_json: bool) -> None:
    """Check the configuration and the certificates, and report all errors. The gateway is not started.

    Exit status with --live: 1 if one of the live checks failed. With --against-running: 1 if a restart is needed.
    """
    if against_running:
        _compare(config, as_json)
    try:
        ready = check_configuration(config)
    except ConfigError as error:
        _complain(error, as_json)
    path = str(ready.config.path)
    if as_json and not live:
        print_json({"ok": True, "config": path, "complaints": [], "warnings": list(ready.warnings)})
        return
    if not as_json:
        for warning in ready.warnings:
            click.echo(f"warning: {printable(warning)}", err=True)
        click.echo(f"{path} is good, for {', '.join(map(str, ready.config.gateway.domains))}")
    if live:
        from s2sgw.cli.live_check import run_live_check

        run_live_check(ready.config, ready.warnings, as_json)


def _compare(config: Path, as_json: bool) -> NoReturn:
    """Show what a reload of the file would change, and what only a restart would."""
    answer = asked(config, as_json, "reload plan", **{"with": str(config.absolute())})
    if not as_json and answer["complaints"]:
        _complain(ConfigError(Path(answer["config"]), answer["complaints"]), as_json)
    show(answer, as_json, tables.planned)
    sys.exit(0 if answer["ok"] else CONFIGURATION if answer["complaints"] else NO)


@main.group(invoke_without_command=False, short_help="Print a configuration, units, or server settings.")
def setup() -> None:
    """Print a configuration for s2sgw, systemd units, or the settings for your XMPP server."""


@setup.command("config", short_help="Print a configuration file for s2sgw.")
@click.option(
    "--domain", "domains", multiple=True, required=True, metavar="DOMAIN",
    help="Domain of your server, e.g. example.org. Repeat the option for each domain.",
)
@click.option("--server", type=click.Choice(list(SERVERS)), default="prosody", show_default=True, help="Software of your server.")
@click.option("--without-systemd", is_flag=True, help="The gateway opens its ports itself, e.g. in a container.")
def setup_config(domains: tuple[str, ...], server: str, without_systemd: bool) -> None:
    """Print a configuration file for your domains. Save it as /etc/s2sgw/s2sgw.toml."""
    try:
        names = [Domain.parse(domain).text for domain in domains]
    except InvalidJID as error:
        fail(str(error), CONFIGURATION, False)
    click.echo(setup_files.configuration(names, server, not without_systemd), nl=False)


@setup.command("systemd", short_help="Print or install the systemd units.")
@click.option("--program", metavar="FILE", help="Path of the s2sgw command for the unit (default: this command).")
@click.option("--install", is_flag=True, help="Write the files to their directories instead of printing them.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), hidden=True)
def setup_systemd(program: str | None, install: bool, root: Path) -> None:
    """Print or install the systemd units, the sockets and the system user for s2sgw."""
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

    @click.command(
        server, short_help=f"Print the settings for {server}.",
        help=f"Print the settings that put {server} behind this gateway. The private CA that {server} must trust is created.",
    )
    @click.option("--local", metavar="DOMAIN", help="A domain of the backend. Required if there are several backends.")
    @click.option(
        "--authority", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
        help="Write the certificate of the CA to FILE too (mode 644), and name FILE in the lines.",
    )
    @config_option
    @json_option
    def command(local: str | None, authority: Path | None, config: Path, as_json: bool, inetrc: bool = False) -> None:
        _print_lines(server, local, authority, inetrc, config, as_json)

    if server == "ejabberd":
        click.option("--inetrc", is_flag=True, help="Print the file inetrc instead: it names the DNS view.")(command)
    return command


def _print_lines(server: str, local: str | None, authority: Path | None, inetrc: bool, config: Path, as_json: bool) -> None:
    authority = None if authority is None else authority.absolute()
    try:
        ready = check_configuration(config)
        domain = None if local is None else Domain.parse(local)
        text = inetrc_text(ready.config, domain) if inetrc else setup_text(server, ready.config, domain, authority)
        certificate = PrivateCA(ready.config.gateway.state).ca_pem
        if authority is not None:
            write_atomically(authority, certificate, 0o644)
            authority.chmod(0o644)
    except ConfigError as error:
        _complain(error, as_json)
    except (SetupError, PrivateCAError, InvalidJID, OSError) as error:
        fail(str(error), CONFIGURATION, as_json)
    place = str(authority or authority_file(ready.config))
    if as_json:
        print_json({"server": server, "lines": text, "authority": place})
    else:
        click.echo(text, nl=False)
        click.echo(f"The certificate of the CA that these lines trust is in {place}", err=True)


for _server in SERVERS:
    setup.add_command(_setup_server(_server))


@main.command(short_help="Run the gateway in the foreground.")
@config_option
@click.option("--log-file", metavar="FILE", help="Write the log to FILE (default: standard output).")
def run(config: Path, log_file: str | None) -> None:
    """Run the gateway in the foreground. SIGTERM or SIGINT stops it gracefully.

    Exit status 2 if the configuration has errors.
    """
    from s2sgw.cli.run import run_gateway

    run_gateway(config, log_file)


def _complain(error: ConfigError, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "config": str(error.path), "complaints": error.complaints, "warnings": []})
    else:
        click.echo(f"{error.path} has errors:", err=True)
        for complaint in error.complaints:
            click.echo(f"  {printable(complaint)}", err=True)
    sys.exit(CONFIGURATION)


# --- the running gateway ---------------------------------------------------------------------------------------------


@main.command(short_help="Show an overview of the gateway.")
@config_option
@json_option
def status(config: Path, as_json: bool) -> None:
    """Show an overview of the gateway: domains, listeners, streams, waiting stanzas, alerts."""
    show(asked(config, as_json, "status"), as_json, tables.status)


@main.command(short_help="List open streams.")
@peer_argument
@limit_option
@config_option
@json_option
def streams(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List open streams, or only those of PEER: how the peer was authenticated, TLS version, age."""
    rows(config, as_json, "streams", tables.streams, peer, limit)


@main.command(short_help="List delivery queues, and what blocks them.")
@peer_argument
@limit_option
@config_option
@json_option
def lanes(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List lanes, or only those from and to PEER: waiting stanzas, last failure, next attempt.

    A lane is the delivery queue of one pair of domains.
    """
    rows(config, as_json, "lanes", tables.lanes, peer, limit)


@main.command(short_help="List peers: streams, waiting stanzas, refusals.")
@peer_argument
@limit_option
@config_option
@json_option
def peers(peer: str | None, limit: int, config: Path, as_json: bool) -> None:
    """List peers, or only PEER: streams in each direction, waiting stanzas, refusals."""
    rows(config, as_json, "peers", tables.peers, peer, limit)


@main.command(short_help="List failed connections, and how to fix them.")
@peer_argument
@limit_option
@click.option(
    "--letter", is_flag=True,
    help="Print the last refusal as a letter to the other administrator. With --json: add a letter to each row.",
)
@config_option
@json_option
def refusals(peer: str | None, limit: int, letter: bool, config: Path, as_json: bool) -> None:
    """List the last failed connections and deliveries, or only those of PEER: layer, cause, details, remedy."""
    if letter:
        rows(config, as_json, "refusals", tables.letter, peer, limit if as_json else 1, letter=True)
    else:
        rows(config, as_json, "refusals", tables.refusals, peer, limit)


@main.command(short_help="List the certificates of the local domains.")
@config_option
@json_option
def certs(config: Path, as_json: bool) -> None:
    """List the certificates of the local domains. Exit status 1 if one is missing or has expired."""
    found = asked(config, as_json, "certs")
    show(found, as_json, tables.certificates)
    if any(row["left"] is None or row["left"] <= 0 for row in found):
        sys.exit(NO)


@main.command(short_help="Stop the gateway gracefully.")
@config_option
@json_option
def drain(config: Path, as_json: bool) -> None:
    """Stop the gateway gracefully. It accepts nothing new, delivers what it can, and keeps the rest for the next start."""
    show(asked(config, as_json, "drain"), as_json, tables.draining)


@main.command(short_help="Reload the configuration.")
@click.option("--keep-streams", is_flag=True, help="Keep all streams open, even those that the new policy forbids.")
@config_option
@json_option
def reload(keep_streams: bool, config: Path, as_json: bool) -> None:
    """Reload the configuration, and close the streams that the new policy forbids.

    If the file has errors, or a change needs a restart, nothing changes. Exit status 2.
    """
    answer = asked(config, as_json, "reload", keep_streams=keep_streams)
    if not as_json and not answer["ok"]:
        _complain(ConfigError(Path(answer["config"]), answer["complaints"]), as_json)
    show(answer, as_json, tables.reloaded)
    if not answer["ok"]:
        sys.exit(CONFIGURATION)


# --- the queue -------------------------------------------------------------------------------------------------------

_target = click.argument("target", nargs=-1, required=True)


@main.group(short_help="Show, hold, retry or drop waiting stanzas.")
def queue() -> None:
    """Show, hold, retry or drop waiting stanzas.

    \b
    TARGET is one of:
      PEER            all lanes from and to the peer, e.g. friend.example
      FROM TO         one lane, e.g. example.org friend.example
      FROM TO NUMBER  one stanza, e.g. example.org friend.example 17

    Every change is written to the audit log.
    """


@queue.command("list", short_help="List waiting stanzas by peer.")
@peer_argument
@click.option("--poison", is_flag=True, help="List instead the stanzas on which a server closed its stream.")
@limit_option
@config_option
@json_option
def queue_list(peer: str | None, poison: bool, limit: int, config: Path, as_json: bool) -> None:
    """List waiting stanzas by peer, or only for PEER: number, size, age, and what blocks them."""
    verb, render = ("queue poison", tables.poison) if poison else ("queue list", tables.queue)
    rows(config, as_json, verb, render, peer, limit)


@queue.command("show", short_help="List the stanzas of TARGET.")
@_target
@limit_option
@config_option
@json_option
def queueshow(target: tuple[str, ...], limit: int, config: Path, as_json: bool) -> None:
    """List the stanzas of TARGET in order. For a single stanza, also print its text."""
    found = asked(config, as_json, "queue show", target=_words(target), limit=limit)
    show(found, as_json, tables.stanzas)
    if not found:
        sys.exit(NO)


@queue.command("hold", short_help="Stop the delivery of TARGET.")
@_target
@config_option
@json_option
def queue_hold(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Stop the delivery of TARGET until you release it. Held stanzas still expire and are then bounced."""
    _change(config, as_json, "queue hold", target, "held")


@queue.command("release", short_help="Continue the delivery of TARGET.")
@_target
@config_option
@json_option
def queue_release(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Remove the holds of TARGET and deliver. Exit status 1 if nothing was held."""
    if _change(config, as_json, "queue release", target, "released")["holds"] == 0:
        sys.exit(NO)


@queue.command("drop", short_help="Give up the waiting stanzas of TARGET.")
@_target
@click.option("--quietly", is_flag=True, help="Send no bounce to the senders.")
@config_option
@json_option
def queue_drop(target: tuple[str, ...], quietly: bool, config: Path, as_json: bool) -> None:
    """Give up the waiting stanzas of TARGET and bounce them to their senders. Exit status 1 if there are none."""
    if _change(config, as_json, "queue drop", target, "dropped", quietly=quietly)["stanzas"] == 0:
        sys.exit(NO)


@queue.command("flush", short_help="Retry the delivery of TARGET now.")
@_target
@config_option
@json_option
def queue_flush(target: tuple[str, ...], config: Path, as_json: bool) -> None:
    """Retry the delivery of TARGET now, before the next planned attempt. Exit status 1 if nothing waits."""
    if _change(config, as_json, "queue flush", target, "are retried now")["lanes"] == 0:
        sys.exit(NO)


def _words(target: tuple[str, ...]) -> list[str | int]:
    return [int(word) if at == 2 and word.isdecimal() else word for at, word in enumerate(target)]


def _change(config: Path, as_json: bool, verb: str, target: tuple[str, ...], done: str, **more: object) -> Any:
    answer = asked(config, as_json, verb, target=_words(target), **more)
    show(answer, as_json, partial(_changed, done))
    return answer


def _changed(done: str, row: tables.JSONRow) -> Text:
    return Text(f"{tables.counted(row['stanzas'], 'stanza')} in {tables.counted(row['lanes'], 'lane')} {done}")


for _each in (*trust.COMMANDS, *console.COMMANDS, *probe.COMMANDS, *report.COMMANDS):
    main.add_command(_each)
