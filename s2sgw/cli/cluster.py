"""`s2sgw cluster …`: the nodes of a cluster."""

from __future__ import annotations

import sys

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
    print_json,
    show,
)
from s2sgw.cli.text_table import JSONRow, Screen
from s2sgw.reporting.printable import printable


@click.group()
def cluster() -> None:
    """Show the nodes of a cluster, and spread homes over them."""


@cluster.command("status", short_help="Show the nodes and the engine.")
@here_option
@config_option
@json_option
def cluster_status(here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Show this node: the number of peers whose home it is, its lease, the other nodes, and the engine.

    The same of the other nodes follows.
    """
    answer = asked(config, as_json, "cluster status", **asked_here(here))
    show(answer, as_json, tables.cluster)
    end_with_missing(answer.get("missing", ()), as_json)


@cluster.command("spread", short_help="Move homes from nodes with many to nodes with few.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and move none.")
@click.option("--busy", is_flag=True, help="Also move peers from which something came in the last 10 seconds.")
@config_option
@json_option
def cluster_spread(dry_run: bool, busy: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Move homes of peers from nodes that have more than their share to those that have fewer, until all have the same.

    The streams of each peer are closed in order, its stanzas are stored, and the other node takes it. A few peers move at a
    time, at most 20 in a second for each node that gives. Exit status 1 if the homes are not even in the end.
    """
    answer = asked(config, as_json, "cluster spread", dry_run=dry_run, busy=busy)
    total = answer
    while not dry_run and answer["moved"] and answer["plan"]:
        if not as_json:
            _tell(answer["moved"])
        answer = asked(config, as_json, "cluster spread", busy=busy)
        total = {
            **answer, "moved": total["moved"] + answer["moved"], "kept": _still_kept(total["kept"], answer),
            "missing": _once_missing(total, answer),
        }
    if as_json:
        print_json(total, as_json)
    else:
        _tell(answer["moved"])
        show(total, as_json, _planned if dry_run else _spread)
    end_with_missing(total["missing"], as_json)
    if answer["plan"] and not dry_run:
        sys.exit(NO)


def _tell(moved: list[JSONRow]) -> None:
    for row in moved:
        click.echo(printable(f"{row['peer']}: {row['from']} -> {row['to']}"))


def _still_kept(kept: list[JSONRow], answer: JSONRow) -> list[JSONRow]:
    """Return the peers that could not be moved until now. A later step does not try them again for a while."""
    tried = {row["peer"] for row in (*answer["moved"], *answer["kept"])}
    return [*(row for row in kept if row["peer"] not in tried), *answer["kept"]]


def _once_missing(total: JSONRow, answer: JSONRow) -> list[JSONRow]:
    """Return the nodes that were missing in any step, and those that ended between two steps. One that is back is left out."""
    missing = {row["node"]: row for row in (*total["missing"], *answer["missing"])}
    ended = {node: {"node": node, "missing": "it has ended meanwhile"} for node in total["homes"]}
    return [row for node, row in {**ended, **missing}.items() if node not in answer["homes"]]


def _homes(answer: JSONRow) -> str:
    return "Homes: " + ", ".join(f"{printable(node)} {number}" for node, number in answer["homes"].items()) + "."


def _planned(answer: JSONRow, _screen: Screen) -> str:
    moves = [printable(f"{row['from']} -> {row['to']}: {tables.counted(row['homes'], 'home')}") for row in answer["plan"]]
    return "\n".join([_homes(answer), *(moves or ["They are even."])])


def _spread(answer: JSONRow, _screen: Screen) -> str:
    lines = [_homes(answer)]
    lines += [printable(f"{row['peer']} stays at {row['node']}: {row['why']}") for row in answer["kept"]]
    left = sum(row["homes"] for row in answer["plan"])
    if left:
        why = "they are named above, or had traffic in the last 10 seconds (--busy)"
        lines.append(f"{tables.counted(left, 'home')} did not move: {why}.")
    return "\n".join(lines)
