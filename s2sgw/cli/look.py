"""`s2sgw status`, `streams`, `lanes`, `peers`, `refusals`, `certs`: the state of the running gateway."""

from __future__ import annotations

import sys
from functools import partial

import click

from s2sgw.cli import tables
from s2sgw.cli.output import (
    NO,
    ConfigPath,
    JSONForm,
    asked,
    asked_here,
    config_option,
    end_with_missing,
    here_option,
    json_option,
    limit_option,
    peer_argument,
    rows,
    show,
    show_rows,
)


@click.command()
@here_option
@config_option
@json_option
def status(here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Show an overview of the gateway: domains, listeners, streams, waiting stanzas, alerts.

    In a cluster, the overview of this node comes first, and those of the others follow.
    """
    answer = asked(config, as_json, "status", **asked_here(here))
    show(answer, as_json, tables.status)
    end_with_missing(answer.get("missing", ()), as_json)


@click.command()
@peer_argument()
@click.option("--all", "everything", is_flag=True, help="Also list the streams from and to your own server.")
@limit_option
@here_option
@config_option
@json_option
def streams(peer: str | None, everything: bool, limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List open streams with peers, or only those with PEER: how the peer was authenticated, TLS version, age.

    With --json, all streams are listed.
    """
    rows(config, as_json, "streams", partial(tables.streams, everything=everything), peer, limit, here)


@click.command()
@peer_argument()
@limit_option
@here_option
@config_option
@json_option
def lanes(peer: str | None, limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List lanes, or only those from and to PEER: waiting stanzas, last failure, next attempt.

    A lane is the delivery queue of one pair of domains.
    """
    rows(config, as_json, "lanes", tables.lanes, peer, limit, here)


@click.command()
@peer_argument()
@limit_option
@here_option
@config_option
@json_option
def peers(peer: str | None, limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List peers, or only PEER: streams in each direction, waiting stanzas, refusals.

    Peers that were authenticated before are listed too, also if they were last seen before the gateway was started.
    """
    rows(config, as_json, "peers", partial(tables.peers, peer=peer), peer, limit, here)


@click.command()
@peer_argument()
@limit_option
@click.option(
    "--letter", is_flag=True,
    help="Print the last refusal as a letter to the other administrator. With --json: add a letter to each row.",
)
@here_option
@config_option
@json_option
def refusals(peer: str | None, limit: int, letter: bool, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List the last failed connections and deliveries, or only those of PEER: layer, cause, details, remedy.

    Exit status 1 if PEER has no refusals.
    """
    if letter:
        rows(config, as_json, "refusals", tables.letter, peer, limit if as_json else 1, here, letter=True)
    else:
        rows(config, as_json, "refusals", tables.refusals, peer, limit, here)


@click.command()
@here_option
@config_option
@json_option
def certs(here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List the certificates of the local domains. Exit status 1 if one is missing or has expired.

    In a cluster, those of all nodes are listed.
    """
    found = asked(config, as_json, "certs", **asked_here(here))
    show_rows(found, as_json, tables.certificates, must_exist=False)
    if any(row["left"] is None or row["left"] <= 0 for row in found):
        sys.exit(NO)
