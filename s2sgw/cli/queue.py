"""`s2sgw queue …`: waiting stanzas, by peer, by lane, or one by one."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import click

from s2sgw.cli import tables
from s2sgw.cli.output import (
    NO,
    ConfigPath,
    JSONForm,
    asked,
    asked_here,
    config_option,
    duration_option,
    end_with_missing,
    here_option,
    json_option,
    limit_option,
    peer_argument,
    rows,
    show,
    show_rows,
    target_argument,
)
from s2sgw.cli.text_table import JSONRow, Screen
from s2sgw.reporting.printable import printable


@click.group()
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
@peer_argument()
@click.option("--poison", is_flag=True, help="List instead the stanzas on which a server closed its stream.")
@limit_option
@here_option
@config_option
@json_option
def queue_list(peer: str | None, poison: bool, limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List waiting stanzas by peer, or only for PEER: number, size, age, and what blocks them."""
    if poison:
        rows(config, as_json, "queue poison", tables.poison, peer, limit)
    else:
        rows(config, as_json, "queue list", tables.queue, peer, limit, here)


@queue.command("ages", short_help="Show how long stanzas have waited.")
@peer_argument()
@limit_option
@here_option
@config_option
@json_option
def queue_ages(peer: str | None, limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Show how many stanzas have waited how long, by peer, or only for PEER."""
    named = {} if peer is None else {"peer": peer}
    found = asked(config, as_json, "queue ages", limit=limit, **named, **asked_here(here))
    show(found, as_json, tables.ages)
    end_with_missing(found.get("missing", ()), as_json)
    if peer is not None and not found["rows"]:
        sys.exit(NO)


@queue.command("show", short_help="List the stanzas of TARGET.")
@target_argument
@limit_option
@here_option
@config_option
@json_option
def queueshow(target: tuple[str, ...], limit: int, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """List the stanzas of TARGET in order. For a single stanza, also print its text."""
    found = asked(config, as_json, "queue show", target=_words(target), limit=limit, **asked_here(here))
    show_rows(found, as_json, tables.stanzas, True)


@queue.command("hold", short_help="Stop the delivery of TARGET.")
@target_argument
@config_option
@json_option
def queue_hold(target: tuple[str, ...], config: ConfigPath, as_json: JSONForm) -> None:
    """Stop the delivery of TARGET until you release it. Held stanzas still expire and are then bounced."""
    answer = asked(config, as_json, "queue hold", target=_words(target))
    show(answer, as_json, partial(_held, " ".join(target)))


@queue.command("release", short_help="Continue the delivery of TARGET.")
@target_argument
@config_option
@json_option
def queue_release(target: tuple[str, ...], config: ConfigPath, as_json: JSONForm) -> None:
    """Remove the holds of TARGET and deliver. Exit status 1 if nothing was held."""
    answer = asked(config, as_json, "queue release", target=_words(target))
    show(answer, as_json, _released)
    if answer["holds"] == 0:
        sys.exit(NO)


@queue.command("drop", short_help="Give up the waiting stanzas of TARGET.")
@target_argument
@click.option("--quietly", is_flag=True, help="Send no bounce to the senders.")
@click.option(
    "--older-than", "older_than", callback=duration_option, metavar="DURATION",
    help='Only stanzas that have waited at least this long, e.g. "2h".',
)
@config_option
@json_option
def queue_drop(
    target: tuple[str, ...], quietly: bool, older_than: float | None, config: ConfigPath, as_json: JSONForm,
) -> None:
    """Give up the waiting stanzas of TARGET and bounce them to their senders. Exit status 1 if there are none."""
    more = {} if older_than is None else {"older_than": older_than}
    if _change(config, as_json, "queue drop", target, "dropped", quietly=quietly, **more)["stanzas"] == 0:
        sys.exit(NO)


@queue.command("flush", short_help="Retry the delivery of TARGET now.")
@target_argument
@config_option
@json_option
def queue_flush(target: tuple[str, ...], config: ConfigPath, as_json: JSONForm) -> None:
    """Retry the delivery of TARGET now, before the next planned attempt. Exit status 1 if nothing waits that is not held."""
    if _change(config, as_json, "queue flush", target, "are retried now")["lanes"] == 0:
        sys.exit(NO)


def _words(target: tuple[str, ...]) -> list[str | int]:
    return [int(word) if at == 2 and word.isdecimal() else word for at, word in enumerate(target)]


def _change(config: ConfigPath, as_json: JSONForm, verb: str, target: tuple[str, ...], done: str, **more: object) -> Any:
    answer = asked(config, as_json, verb, target=_words(target), **more)
    show(answer, as_json, partial(_changed, done))
    return answer


def _held(target: str, row: JSONRow, _screen: Screen) -> str:
    waiting = f"{tables.counted(row['stanzas'], 'stanza')} in {tables.counted(row['lanes'], 'lane')}"
    return f"{target} is held from now on{tables.by_node(row)}: {waiting}, and what comes"


def _released(row: JSONRow, screen: Screen) -> str:
    still = " and of ".join(map(tables.target_text, row.get("held", ())))
    nothing = "no hold of its own" if still else "nothing was held"
    holds = f"{tables.counted(row['holds'], 'hold')} removed" if row["holds"] else nothing
    if still:
        return f"{holds}; it is still held, by the hold of {printable(still)}{tables.by_node(row)}"
    return f"{holds}; {_changed('released', row, screen)}"


def _changed(done: str, row: JSONRow, _screen: Screen) -> str:
    return f"{tables.counted(row['stanzas'], 'stanza')} in {tables.counted(row['lanes'], 'lane')} {done}{tables.by_node(row)}"
