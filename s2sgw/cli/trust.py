"""`s2sgw pending`, `pins`, `explain`, `replay`: certificates that wait for approval, approved keys, and verdicts."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from s2sgw.cli import trust_tables as tables
from s2sgw.cli.output import (
    NO,
    ConfigPath,
    JSONForm,
    asked,
    asked_here,
    config_option,
    duration_option,
    here_option,
    json_option,
    peer_argument,
    show,
)

_key = click.argument("key")
_file = click.Path(path_type=Path, exists=True)


_for = click.option(
    "--for", "lasts", callback=duration_option, metavar="DURATION",
    help='How long the approval is valid, e.g. "90d" (default: until revoked).',
)
_note = click.option("--note", default="", help='Comment stored with the key, e.g. "compared by phone".')
_replace = click.option("--replace", is_flag=True, help="Revoke the other keys of the peer.")


@click.command()
@peer_argument()
@config_option
@json_option
def pending(peer: str | None, config: ConfigPath, as_json: JSONForm) -> None:
    """List certificates that wait for approval, or only those of PEER: chain, names, dates, keys, DNS, waiting stanzas."""
    rows = asked(config, as_json, "pending", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pending)
    if peer is not None and not rows:
        sys.exit(NO)


@click.group()
def pins() -> None:
    """Approve, revoke and list keys of peers.

    A key is approved by you, remembered at first use, or pinned in the configuration.
    """


@pins.command("list", short_help="List approved and remembered keys.")
@peer_argument()
@config_option
@json_option
def pins_list(peer: str | None, config: ConfigPath, as_json: JSONForm) -> None:
    """List approved, remembered and pinned keys, or only those of PEER."""
    rows = asked(config, as_json, "pins list", **({} if peer is None else {"peer": peer}))
    show(rows, as_json, tables.pins)
    if peer is not None and not rows:
        sys.exit(NO)


@pins.command("add", short_help="Approve a key that you know.")
@peer_argument(required=True)
@_key
@_for
@_note
@_replace
@config_option
@json_option
def pins_add(
    peer: str, key: str, lasts: float | None, note: str, replace: bool, config: ConfigPath, as_json: JSONForm,
) -> None:
    """Approve KEY for PEER. KEY is "sha256:" and the SHA-256 of the public key, e.g. as `s2sgw pending` prints it."""
    _approve(config, as_json, "pins add", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


@pins.command("approve", short_help="Approve a pending certificate.")
@peer_argument(required=True)
@click.argument("key", required=False)
@_for
@_note
@_replace
@config_option
@json_option
def pins_approve(
    peer: str, key: str | None, lasts: float | None, note: str, replace: bool, config: ConfigPath, as_json: JSONForm,
) -> None:
    """Approve the pending certificate of PEER. If several wait, KEY selects one."""
    _approve(config, as_json, "pins approve", peer=peer, key=key, lasts=lasts, note=note, replace=replace)


def _approve(config: ConfigPath, as_json: JSONForm, verb: str, **arguments: Any) -> None:
    answer = asked(config, as_json, verb, **{name: value for name, value in arguments.items() if value is not None})
    show(answer, as_json, tables.approved)


@pins.command("revoke", short_help="Revoke a key and close its connections.")
@peer_argument(required=True)
@_key
@click.option("--forget", is_flag=True, help="Delete the key from memory, as if it had never been seen.")
@config_option
@json_option
def pins_revoke(peer: str, key: str, forget: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Revoke KEY for PEER, and close the connections that used it."""
    answer = asked(config, as_json, "pins revoke", peer=peer, key=key, forget=forget)
    show(answer, as_json, tables.revoked)


@click.command()
@peer_argument(required=True)
@click.option("--local", metavar="DOMAIN", help="Local domain of the pair (default: the first local domain).")
@click.option("--with", "planned", type=_file, metavar="FILE", help="Use FILE instead of the running configuration.")
@click.option("--all", "everything", is_flag=True, help="Also show settings with their default value, and all reasons.")
@here_option
@config_option
@json_option
def explain(
    peer: str, local: str | None, planned: Path | None, everything: bool, here: bool, config: ConfigPath, as_json: JSONForm,
) -> None:
    """Explain the verdict on PEER now: the reasons, the last refusals, the certificate, and the settings that matter.

    For each setting the line of the configuration is shown. Exit status 1 if the peer is not allowed.
    In a cluster the home of PEER answers.
    """
    arguments = {"peer": peer} | ({} if local is None else {"local": local}) | _with(planned) | asked_here(here)
    answer = asked(config, as_json, "explain", **arguments)
    show(answer, as_json, partial(tables.explanation, everything=everything))
    if answer["bar"] is not None:
        sys.exit(NO)


@click.command()
@click.option("--with", "planned", type=_file, metavar="FILE", required=True, help="The new configuration.")
@click.option(
    "--since", callback=duration_option, metavar="DURATION", help='Maximum age of the connections, e.g. "1d" (default: 7d).',
)
@config_option
@json_option
def replay(planned: Path, since: float | None, config: ConfigPath, as_json: JSONForm) -> None:
    """Test a new configuration against the connections of the last 7 days.

    The peers that it would treat differently are listed. Exit status 1 if a peer that is accepted now would be refused.
    """
    answer = asked(config, as_json, "replay", **_with(planned), **({} if since is None else {"seconds": since}))
    show(answer, as_json, tables.replayed)
    if any(row["before"]["accepted"] and not row["after"]["accepted"] for row in answer["changed"]):
        sys.exit(NO)


def _with(planned: Path | None) -> dict[str, str]:
    return {} if planned is None else {"with": str(planned.absolute())}

