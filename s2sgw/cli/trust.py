"""`s2sgw pending`, `pins`, `explain`, `replay`: certificates that wait for approval, approved keys, and verdicts."""

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
    "--for", "lasts", callback=_duration, metavar="DURATION",
    help='How long the approval is valid, e.g. "90d" (default: until revoked).',
)
_note = click.option("--note", default="", help='Comment stored with the key, e.g. "compared by phone".')
_replace = click.option("--replace", is_flag=True, help="Revoke the other keys of the peer.")


@click.command(short_help="List certificates that wait for approval.")
@peer_argument
@config_option
@json_option
def pending(peer: str | None, config: Path, as_json: bool) -> None:
    """List certificates that wait for approval, or only those of PEER: chain, names, dates, keys, DNS, waiting stanzas."""
    rows = asked(config, as_json, "pending", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pending)
    if peer is not None and not rows:
        sys.exit(NO)


@click.group(short_help="Approve, revoke and list keys of peers.")
def pins() -> None:
    """Approve, revoke and list keys of peers.

    A key is approved by you, remembered at first use, or pinned in the configuration.
    """


@pins.command("list", short_help="List approved and remembered keys.")
@peer_argument
@config_option
@json_option
def pins_list(peer: str | None, config: Path, as_json: bool) -> None:
    """List approved, remembered and pinned keys, or only those of PEER."""
    rows = asked(config, as_json, "pins list", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pins)
    if peer is not None and not rows:
        sys.exit(NO)


@pins.command("add", short_help="Approve a key that you know.")
@click.argument("peer")
@_key
@_for
@_note
@_replace
@config_option
@json_option
def pins_add(peer: str, key: str, lasts: float | None, note: str, replace: bool, config: Path, as_json: bool) -> None:
    """Approve KEY for PEER. KEY is "sha256:" and the SHA-256 of the public key, e.g. as `s2sgw pending` prints it."""
    _approve(config, as_json, "pins add", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


@pins.command("approve", short_help="Approve a pending certificate.")
@click.argument("peer")
@click.argument("key", required=False)
@_for
@_note
@_replace
@config_option
@json_option
def pins_approve(peer: str, key: str | None, lasts: float | None, note: str, replace: bool, config: Path, as_json: bool) -> None:
    """Approve the pending certificate of PEER. If several wait, KEY selects one."""
    _approve(config, as_json, "pins approve", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


def _approve(config: Path, as_json: bool, verb: str, **arguments: Any) -> None:
    answer = asked(config, as_json, verb, **{name: value for name, value in arguments.items() if value is not None})
    show(answer, as_json, tables.approved)


@pins.command("revoke", short_help="Revoke a key and close its connections.")
@click.argument("peer")
@_key
@click.option("--forget", is_flag=True, help="Delete the key from memory, as if it had never been seen.")
@config_option
@json_option
def pins_revoke(peer: str, key: str, forget: bool, config: Path, as_json: bool) -> None:
    """Revoke KEY for PEER, and close the connections that used it."""
    answer = asked(config, as_json, "pins revoke", peer=peer, key=key, forget=forget)
    show(answer, as_json, tables.revoked)


@click.command(short_help="Explain the policy and the verdict for a peer.")
@click.argument("peer")
@click.option("--local", metavar="DOMAIN", help="Local domain of the pair (default: the first local domain).")
@click.option("--with", "planned", type=_file, metavar="FILE", help="Use FILE instead of the running configuration.")
@config_option
@json_option
def explain(peer: str, local: str | None, planned: Path | None, config: Path, as_json: bool) -> None:
    """Explain the policy for PEER, the records about PEER, and the verdict now.

    For each key the line of the configuration is shown. Exit status 1 if the peer is not allowed.
    """
    arguments = {"peer": peer} | ({} if local is None else {"local": local}) | _with(planned)
    answer = asked(config, as_json, "explain", **arguments)
    show(answer, as_json, tables.explanation)
    if answer["bar"] is not None:
        sys.exit(NO)


@click.command(short_help="Test a new configuration on recent connections.")
@click.option("--with", "planned", type=_file, metavar="FILE", required=True, help="The new configuration.")
@click.option("--since", callback=_duration, metavar="DURATION", help='Maximum age of the connections, e.g. "1d" (default: 7d).')
@config_option
@json_option
def replay(planned: Path, since: float | None, config: Path, as_json: bool) -> None:
    """Test a new configuration against the connections of the last 7 days.

    The peers that it would treat differently are listed. Exit status 1 if a peer that is accepted now would be refused.
    """
    answer = asked(config, as_json, "replay", **_with(planned), **({} if since is None else {"seconds": since}))
    show(answer, as_json, tables.replayed)
    if any(row["before"]["accepted"] and not row["after"]["accepted"] for row in answer["changed"]):
        sys.exit(NO)


def _with(planned: Path | None) -> dict[str, str]:
    return {} if planned is None else {"with": str(planned.absolute())}


COMMANDS: tuple[click.Command, ...] = (pending, pins, explain, replay)
