"""`s2sgw report`: the daily report, for each peer."""

from __future__ import annotations

import sys
from functools import partial
from operator import itemgetter

import click

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
    peer_argument,
    show,
)
from s2sgw.cli.tables import counted, duration, size, with_node
from s2sgw.cli.text_table import Column, JSONRow, Screen, number, paragraphs, table


@click.command()
@peer_argument()
@click.option("--day", metavar="DATE", help="The day to report, e.g. 2026-11-20 (default: today, so far). Days are of UTC.")
@here_option
@config_option
@json_option
def report(peer: str | None, day: str | None, here: bool, config: ConfigPath, as_json: JSONForm) -> None:
    """Show for each peer (or PEER) how many streams succeeded and failed on a day, and why. The last 31 days are kept.

    In a cluster, each node has counted its own part, in a row of its own. Exit status 1 if nothing is reported of PEER, or the
    day has no report.
    """
    arguments = {key: value for key, value in (("peer", peer), ("day", day)) if value is not None}
    found = asked(config, as_json, "report", **arguments, **asked_here(here))
    show(found, as_json, partial(report_table, peer=peer))
    end_with_missing(found.get("missing", ()), as_json)
    if peer is not None and not found["peers"]:
        sys.exit(NO)


def _pair(key: str) -> Column:
    """Return a column with both directions of a count."""
    return number(f"{key} in / out", key, lambda counts: f"{counts.get('inbound', 0)} / {counts.get('outbound', 0)}")


_COLUMNS = (
    Column("peer", "peer"),
    number("succeeded", "successes", itemgetter("sessions")),
    number("failed", "failures", itemgetter("sessions")),
    _pair("stanzas"),
    number("bytes in / out", "bytes", lambda row: f"{size(row.get('inbound', 0))} / {size(row.get('outbound', 0))}"),
    number("waited", "oldest", lambda seconds: duration(seconds) if seconds else "-"),
)


def report_table(answer: JSONRow, screen: Screen, peer: str | None = None) -> str:
    """Return the table of a report, and below it the failures by cause. `peer`: the report is about this peer only."""
    head = f"{answer['day']} (UTC), for {', '.join(answer['domains'])}"
    if not answer["peers"]:
        return paragraphs([f"{head}: {'nothing happened' if peer is None else f'nothing is reported of {peer}'}."], screen)
    lines = []
    for row in answer["peers"]:
        for each in row["failures"]["details"]:
            node = f" at node {row['node']}" if row.get("node") else ""
            words = f"{each['direction']} {each['layer']}/{each['cause']} (by {each['by']}){node}"
            lines.append(f"  {row['peer']}: {counted(each['count'], 'time')} {words}")
    causes = paragraphs(["Failures:", *lines] if lines else ["There were no failures."], screen)
    rows = table(with_node(_COLUMNS, answer["peers"]), answer["peers"], screen)
    return "\n".join((paragraphs([head], screen), "", rows, "", causes))
