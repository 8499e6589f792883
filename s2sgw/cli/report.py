"""`s2sgw report`: the daily report, for each peer."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.text import Text

from s2sgw.cli.output import NO, asked, config_option, json_option, peer_argument, show
from s2sgw.cli.tables import Column, JSONRow, duration, number, size, table
from s2sgw.reporting.printable import printable


@click.command(short_help="Show the daily report.")
@peer_argument
@click.option("--day", metavar="DATE", help="The day to report, e.g. 2026-11-20 (default: today, so far). Days are of UTC.")
@config_option
@json_option
def report(peer: str | None, day: str | None, config: Path, as_json: bool) -> None:
    """Show for each peer (or PEER) how many streams succeeded and failed on a day, and why. The last 31 days are kept.

    Exit status 1 if nothing is reported of PEER.
    """
    arguments = {key: value for key, value in (("peer", peer), ("day", day)) if value is not None}
    found = asked(config, as_json, "report", **arguments)
    show(found, as_json, report_table)
    if peer is not None and not found["peers"]:
        sys.exit(NO)


def _pair(key: str) -> Column:
    """Return a column with both directions of a count."""
    return number(f"{key} in / out", key, lambda counts: f"{counts.get('inbound', 0)} / {counts.get('outbound', 0)}")


_COLUMNS = (
    Column("peer", "peer"),
    number("succeeded", "successes", lambda row: row["sessions"]),
    number("failed", "failures", lambda row: row["sessions"]),
    _pair("stanzas"),
    number("bytes in / out", "bytes", lambda row: f"{size(row.get('inbound', 0))} / {size(row.get('outbound', 0))}"),
    number("waited", "oldest", lambda seconds: duration(seconds) if seconds else "-"),
)


def report_table(answer: JSONRow) -> RenderableType:
    """Return the table of a report, and below it the failures by cause."""
    head = f"{answer['day']} (UTC), for {', '.join(answer['domains'])}"
    if not answer["peers"]:
        return Text(printable(f"{head}: nothing happened."))
    lines = []
    for row in answer["peers"]:
        for each in row["failures"]["details"]:
            words = f"{each['direction']} {each['layer']}/{each['cause']} (by {each['by']})"
            lines.append(f"  {row['peer']}: {each['count']} times {words}")
    causes = Text("\n".join(printable(line) for line in ["Failures:", *lines])) if lines else Text("There were no failures.")
    return Group(Text(printable(head)), table(_COLUMNS, answer["peers"]), causes)


COMMANDS: tuple[click.Command, ...] = (report,)
