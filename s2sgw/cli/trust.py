"""`s2sgw pending`, `pins`, `explain`, `replay`: certificates that wait for approval, approved keys, and what a policy decides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from s2sgw.cli import trust_tables as tables
from s2sgw.cli.output import NO, asked, config_option, json_option, peer_argument, show
from s2sgw.policy.values import parse_duration

_key = click.argument("key")
_file = click.Path(path_type=Path, exists=True)


def _duration(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_for = click.option(
    "--for", "lasts", callback=_duration, metavar="DURATION", help='Validity, e.g. 90d (default: until revoked).',
)
_note = click.option("--note", default="", help="Comment stored with the key.")
_replace = click.option("--replace", is_flag=True, help="Revoke the other keys of the peer.")


@click.command()
@peer_argument
@config_option
@json_option
def pending(peer: str | None, config: Path, as_json: bool) -> None:
    """List the certificates (of PEER) that wait for approval: chain, names, dates, keys, DNS, and the stanzas that wait."""
    rows = asked(config, as_json, "pending", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pending)
    if peer is not None and not rows:
        sys.exit(NO)


@click.group()
def pins() -> None:
    """Show and change the keys of peers: approved, remembered at first use, revoked, or pinned in the configuration."""


@pins.command("list")
@peer_argument
@config_option
@json_option
def pins_list(peer: str | None, config: Path, as_json: bool) -> None:
    """List the remembered keys (of PEER), and since when."""
    rows = asked(config, as_json, "pins list", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pins)
    if peer is not None and not rows:
        sys.exit(NO)


@pins.command("add")
@click.argument("peer")
@_key
@_for
@_note
@_replace
@config_option
@json_option
def pins_add(peer: str, key: str, lasts: float | None, note: str, replace: bool, config: Path, as_json: bool) -> None:
    """Approve KEY ("sha256:…" of the public key) for PEER."""
    _approve(config, as_json, "pins add", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


@pins.command("approve")
@click.argument("peer")
@click.argument("key", required=False)
@_for
@_note
@_replace
@config_option
@json_option
def pins_approve(peer: str, key: str | None, lasts: float | None, note: str, replace: bool, config: Path, as_json: bool) -> None:
    """Approve the certificate of PEER that waits. KEY chooses one if several wait."""
    _approve(config, as_json, "pins approve", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


def _approve(config: Path, as_json: bool, verb: str, **arguments: Any) -> None:
    answer = asked(config, as_json, verb, **{name: value for name, value in arguments.items() if value is not None})
    show(answer, as_json, tables.approved)


@pins.command("revoke")
@click.argument("peer")
@_key
@click.option("--forget", is_flag=True, help="Forget the key: it may be remembered at first use again.")
@config_option
@json_option
def pins_revoke(peer: str, key: str, forget: bool, config: Path, as_json: bool) -> None:
    """Revoke KEY of PEER, and close the streams that it proved."""
    answer = asked(config, as_json, "pins revoke", peer=peer, key=key, forget=forget)
    show(answer, as_json, tables.revoked)


@click.command()
@click.argument("peer")
@click.option("--local", metavar="DOMAIN", help="Local domain (default: the first one).")
@click.option("--with", "planned", type=_file, metavar="FILE", help="Use a planned configuration.")
@config_option
@json_option
def explain(peer: str, local: str | None, planned: Path | None, config: Path, as_json: bool) -> None:
    """Show the policy of PEER, the line of the file each key comes from, what is on record, and what would be decided now.

    Exit status 1 if the peer is not allowed.
    """
    arguments = {"peer": peer} | ({} if local is None else {"local": local}) | _with(planned)
    answer = asked(config, as_json, "explain", **arguments)
    show(answer, as_json, tables.explanation)
    if answer["bar"] is not None:
        sys.exit(NO)


@click.command()
@click.option("--with", "planned", type=_file, metavar="FILE", required=True, help="The planned configuration.")
@click.option("--since", callback=_duration, metavar="DURATION", help='Age of the oldest handshake, e.g. 1d (default: 7d).')
@config_option
@json_option
def replay(planned: Path, since: float | None, config: Path, as_json: bool) -> None:
    """Judge the handshakes of the last days by a planned configuration, and list the verdicts that would change.

    Exit status 1 if a peer would be refused that is accepted now.
    """
    answer = asked(config, as_json, "replay", **_with(planned), **({} if since is None else {"seconds": since}))
    show(answer, as_json, tables.replayed)
    if any(row["before"]["accepted"] and not row["after"]["accepted"] for row in answer["changed"]):
        sys.exit(NO)


def _with(planned: Path | None) -> dict[str, str]:
    return {} if planned is None else {"with": str(planned.absolute())}


COMMANDS: tuple[click.Command, ...] = (pending, pins, explain, replay)
