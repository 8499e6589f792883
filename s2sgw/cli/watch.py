"""`s2sgw watch`: the events of the running gateway while they happen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from s2sgw.cli.output import (
    JSON_VERSION,
    ConfigPath,
    JSONForm,
    asked_here,
    config_option,
    followed,
    here_option,
    json_option,
    peer_argument,
)
from s2sgw.reporting.printable import printable, quoted

#: Characters of one fact.
_FACT = 1000
#: Facts that are shown before the others, and the time as a number.
_HEAD = ("at", "time", "level", "on", "event")


@click.command()
@peer_argument()
@config_option
@json_option
@here_option
def watch(peer: str | None, config: ConfigPath, as_json: JSONForm, here: bool) -> None:
    """Show events while they happen, or only those about PEER: streams, refusals, retries. Press Ctrl-C to end.

    Events below the level of the log are shown too. With --json, each event is one line.
    In a cluster, these are the events of all nodes, each with its node.
    """
    with suppress(KeyboardInterrupt):
        for row in followed(config, as_json, "watch", **({} if peer is None else {"peer": peer}), **asked_here(here)):
            click.echo(_json(row, as_json) if as_json else event_line(row))


def _json(row: Mapping[str, Any], form: str) -> str:
    return json.dumps({"version": JSON_VERSION, "ok": True, "result": row} if form == "v1" else row)


def event_line(row: Mapping[str, Any]) -> str:
    """Return an event as one line: the time of day, the level, the node of a cluster, the event, and its facts."""
    facts = " ".join(f"{printable(key)}={_text(value)}" for key, value in row.items() if key not in _HEAD)
    time, node = str(row.get("time", ""))[11:19], printable(str(row.get("on", "")))
    words = (time, f"{row.get('level', ''):<5}", node, printable(str(row["event"])), facts)
    return "  ".join(word for word in words if word.strip())


def _text(value: object) -> str:
    if isinstance(value, list):
        return quoted("; ".join(map(str, value)), _FACT)
    return quoted("all" if value is None else str(value), _FACT)
