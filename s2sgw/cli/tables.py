"""The gateway's responses as tables for a terminal. All text of peers goes through `printable`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from s2sgw.reporting.printable import printable

JSONRow = dict[str, Any]


def plain(value: object) -> object:
    """Return `value` unchanged, or a dash if it is empty."""
    return "-" if value in (None, "", []) else value


class Column(NamedTuple):
    """A column: its head, the key of its value in a row ("": the whole row), and how the value is formatted."""

    head: str
    key: str
    text: Callable[[Any], object] = plain
    right: bool = False

    def cell(self, row: JSONRow) -> str:
        """Return the text of this column in `row`."""
        return str(self.text(row.get(self.key) if self.key else row))


def number(head: str, key: str, text: Callable[[Any], object] = plain) -> Column:
    """Return a column that is aligned to the right."""
    return Column(head, key, text, right=True)


def joined(values: Sequence[object]) -> str:
    """Return the values separated by commas, or a dash if there are none."""
    return ", ".join(map(str, values)) or "-"


def duration(seconds: float | None) -> str:
    """Return a duration such as "3.2 s", "5 min 20 s", "2 h 5 min" or "12 d 3 h"."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(number: float) -> str:
    """Return a size such as "512 B", "3.4 KiB" or "64.0 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def counted(value: float, noun: str) -> str:
    """Return a number with its noun: "1 stanza", "2 stanzas"."""
    return f"{value:.0f} {noun}" + ("" if value == 1 else "s")


def moment(at: float | None) -> str:
    """Return a time such as "2026-11-20 13:04:44Z", or a dash for None."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def table(columns: Sequence[Column], rows: Iterable[JSONRow]) -> Table:
    """Return a table. Cells are plain text, never rich's markup."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column.head, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(column.cell(row))) for column in columns))
    return made


def _state(state: str) -> str:
    """Return the word for a lane's state. A lost stream that can be resumed is no failure."""
    return "resumable" if state == "broken" else state


def _states(states: Sequence[str]) -> str:
    return joined([_state(state) for state in states])


def _oldest(row: JSONRow) -> str:
    return duration(row["oldest"]) if row["stanzas"] else "-"


def _holds(held: Sequence[str]) -> str:
    return "; ".join(held) or "-"


def _place(row: JSONRow) -> str:
    return f"{row['place']}, held" if row["held"] else str(row["place"])


def _kind(row: JSONRow) -> str:
    return f"{row['kind']} {row['type']}" if row["type"] else str(row["kind"])


def _last(refusal: JSONRow | None) -> str:
    return "-" if refusal is None else f"{moment(refusal['at'])} {refusal['layer']}/{refusal['cause']}"


STREAMS = (
    Column("leg", "leg"),
    Column("direction", "direction"),
    Column("peer", "peer"),
    Column("local", "local"),
    Column("state", "state"),
    Column("verified by", "method"),
    number("pairs", "pairs", len),
    Column("TLS", "tls"),
    Column("resumption", "resumption"),
    Column("address", "address"),
    number("age", "age", duration),
)
LANES = (
    Column("from", "sender"),
    Column("to", "recipient"),
    Column("state", "state", _state),
    number("waiting", "stanzas"),
    number("bytes", "bytes", size),
    number("oldest", "", _oldest),
    Column("last failure", "cause"),
    number("next attempt", "retry", duration),
    Column("blocked by", "blocked"),
    Column("full", "full", joined),
)
PEERS = (
    Column("peer", "peer"),
    number("in", "inbound"),
    number("out", "outbound"),
    Column("verified by", "methods", joined),
    number("waiting", "waiting"),
    number("refusals", "refusals"),
    Column("last refusal", "last_refusal", _last),
    Column("disabled extensions", "disabled", joined),
)
CERTIFICATES = (
    Column("domain", "domain"),
    Column("certificate", "name"),
    Column("names", "names", joined),
    Column("expires", "expires", moment),
    number("left", "left", duration),
)
QUEUE = (
    Column("peer", "peer"),
    Column("state", "states", _states),
    number("lanes", "lanes"),
    number("waiting", "stanzas"),
    number("bytes", "bytes", size),
    number("oldest", "", _oldest),
    Column("last failure", "cause"),
    number("next attempt", "retry", duration),
    Column("blocked by", "blocked", joined),
    Column("full", "full", joined),
    Column("held", "held", _holds),
)
QUEUED = (
    Column("from", "sender"),
    Column("to", "recipient"),
    number("number", "number"),
    Column("location", "", _place),
    Column("kind", "", _kind),
    Column("id", "id"),
    number("bytes", "bytes", size),
    number("age", "age", duration),
    number("bounced in", "left", duration),
)
#: Who ended a connection, as a refusal shows it; "us" is not shown.
_CLOSED_BY = {"them": "by the peer", "network": "by the network"}
_STANZAS = (
    Column("direction", "direction"),
    Column("kind", "kind"),
    Column("outcome", "outcome"),
    number("number", "number"),
)


def streams(rows: list[JSONRow]) -> RenderableType:
    """Return the open streams as a table."""
    return table(STREAMS, rows) if rows else "No stream is open."


def lanes(rows: list[JSONRow]) -> RenderableType:
    """Return the lanes as a table."""
    return table(LANES, rows) if rows else "Nothing is queued and no connection is open."


def peers(rows: list[JSONRow]) -> RenderableType:
    """Return the peers as a table."""
    return table(PEERS, rows) if rows else "No peer is connected, and no peer was refused."


def certificates(rows: list[JSONRow]) -> RenderableType:
    """Return the certificates of the local domains as a table."""
    return table(CERTIFICATES, rows) if rows else "There is no local domain."


def queue(rows: list[JSONRow]) -> RenderableType:
    """Return the waiting stanzas by peer as a table."""
    return table(QUEUE, rows) if rows else "No stanzas wait."


def stanzas(rows: list[JSONRow]) -> RenderableType:
    """Return the stanzas as a table. The text of a single requested stanza follows."""
    texts = [Text(printable(row["data"], len(row["data"]))) for row in rows if row["data"] is not None]
    return Group(table(QUEUED, rows), *texts) if rows else "No stanzas wait."


def poison(rows: list[JSONRow]) -> RenderableType:
    """Return the poison stanzas, each with its text."""
    heads = (f"{moment(row['at'])}  {row['sender']} -> {row['recipient']}  {row['kind']}  {row['cause']}" for row in rows)
    texts = [f"{printable(head)}\n    {printable(row['data'], len(row['data']))}" for head, row in zip(heads, rows, strict=True)]
    return Group(*map(Text, texts)) if rows else "There are no poison stanzas."


def refusals(rows: list[JSONRow]) -> RenderableType:
    """Return the refusals as paragraphs, so that you can copy a remedy into a mail."""
    if not rows:
        return "There are no refusals."
    return Group(*(Text("\n".join(_refusal(row))) for row in rows))


def _refusal(row: JSONRow) -> list[str]:
    names = f"peer {row['peer'] or '(unnamed)'}  local {row['local'] or '(unnamed)'}"
    head = f"{moment(row['at'])}  {row['direction']} {row['leg']}  {names}"
    lines = [head + (f"  at {row['address']}" if row["address"] else "")]
    said = f" ({_CLOSED_BY[row['by']]})" if row["by"] in _CLOSED_BY else ""
    often = f", {counted(row['times'], 'time')} since {moment(row['first'])}" if row.get("times", 1) > 1 else ""
    lines.append(f"    {row['layer']}/{row['cause']}{said}{often}" + (f": {row['detail']}" if row["detail"] else ""))
    lines += [f"      {reason}" for reason in row["reasons"]]
    lines.append(f"    remedy: {row['remedy']}")
    return [printable(line) for line in lines]


def status(answer: JSONRow) -> RenderableType:
    """Return the overview of the gateway."""
    lines = [
        f"s2sgw {answer['version']}, running for {duration(answer['uptime'])} on {answer['config']}",
        f"domains    {', '.join(answer['domains'])}",
        *(f"listens    {listener['endpoint']} ({listener['purpose']})" for listener in answer["listeners"]),
        *(f"backend    {_backend(row)}" for row in answer.get("backends", ())),
        f"streams    {', '.join(_number(row) for row in answer['streams']) or 'none'}",
        f"waiting    {_waiting(answer['waiting'])}",
        *([f"resumable  {counted(answer['broken'], 'lost stream')}"] if answer["broken"] else []),
        f"refusals   {answer['refusals']}",
        *(f"ends soon  certificate of {row['peer']}, {moment(row['ends'])}" for row in answer.get("peer_certificates", ())),
        *(f"ALERT      {alert}" for alert in answer.get("alerts", ())),
    ]
    text = Text("\n".join(printable(line) for line in lines))
    return Group(text, table(_STANZAS, answer["stanzas"])) if answer["stanzas"] else text


def _backend(row: JSONRow) -> str:
    if row["state"] == "unknown":
        return f"{row['address']}: not tried yet"
    why = f": {row['detail']} ({row['cause']})" if row["cause"] else ""
    return f"{row['address']}: {row['state']} since {moment(row['since'])}{why}"


def _waiting(held: JSONRow) -> str:
    text = f"{counted(held['stanzas'], 'stanza')}, {size(held['bytes'])}"
    return text + (f", the oldest for {duration(held['oldest'])}" if held["stanzas"] else "")


def _number(row: JSONRow) -> str:
    return f"{row['number']} {row['direction']} on the {row['leg']} leg"


def letter(rows: list[JSONRow]) -> RenderableType:
    """Return the last refusal as a letter to the administrator of the peer."""
    text = (rows[-1]["letter"] or rows[-1]["no_letter"]) if rows else "There are no refusals."
    return Text("\n".join(map(printable, text.splitlines())))


def draining(answer: JSONRow) -> RenderableType:
    """Return the response of `drain` as text."""
    fate = "are kept for the next start" if answer["kept"] else "are bounced"
    return f"The gateway stops. {counted(answer['waiting'], 'stanza')} waiting; those that cannot be delivered now {fate}."


def reloaded(answer: JSONRow) -> RenderableType:
    """Return the result of a reload, one line for each change."""
    lines = ["Configuration reloaded" + (f" from {answer['config']}." if answer["changes"] else "; no changes.")]
    lines += [f"warning: {warning}" for warning in answer["warnings"]]
    lines += [f"  {row['key']}: {_value(row['old'])} -> {_value(row['new'])}" for row in answer["changes"]]
    lines += [f"  {answer['more_changes']} more keys"] if answer["more_changes"] else []
    lines += [f"  new certificate: {name}" for name in answer["certificates"]]
    lines += [
        f"  closed: {row['direction']} stream of {row['peer']} with {row['local']} ({row['cause']}: {row['detail']})"
        for row in answer["closed"]
    ]
    return Text("\n".join(printable(line) for line in lines))


def planned(answer: JSONRow) -> RenderableType:
    """Return what a reload would change, and what only a restart would."""
    if not answer["changes"]:
        return Text(f"A reload of {printable(answer['config'])} changes nothing.")
    lines = [f"warning: {warning}" for warning in answer["warnings"]]
    for head, wanted in (("A reload changes:", False), ("Only a restart changes:", True)):
        rows = [row for row in answer["changes"] if bool(row["restart"]) is wanted]
        lines += [head] if rows else []
        for row in rows:
            why = f" ({row['restart']})" if row["restart"] else ""
            lines.append(f"  {row['key']}: {_value(row['old'])} -> {_value(row['new'])}{why}")
    lines += [f"  {answer['more_changes']} more keys"] if answer["more_changes"] else []
    lines += [] if answer["ok"] else ["`s2sgw reload` would refuse this file: all of it or nothing."]
    return Text("\n".join(printable(line, 500) for line in lines))


def _value(value: object) -> str:
    return "unset" if value is None else json.dumps(value)
