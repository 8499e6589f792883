"""The answers about trust for a terminal; every word of a stranger goes through `printable`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from s2sgw.operate.printable import printable
from s2sgw.operate.tables import Column, Row, field, moment, table


def _when(key: str) -> Column:
    return Column(key, lambda row: "-" if row[key] is None else moment(row[key]))


PINS = (
    Column("peer", field("peer")),
    Column("key", field("key")),
    Column("by", field("origin")),
    Column("since", lambda row: "-" if row["at"] is None else moment(row["at"])),
    _when("expires"),
    Column("counts", lambda row: "revoked" if row["revoked"] else "yes" if row["counts"] else "expired"),
    Column("note", field("note")),
)


def pins(rows: list[Row]) -> RenderableType:
    return table(PINS, rows) if rows else "No key is remembered."


def approved(row: Row) -> RenderableType:
    until = "until it is revoked" if row["expires"] is None else f"until {moment(row['expires'])}"
    lines = [f"{row['key']} is approved for {row['peer']} {until}."]
    if not row["counts"]:
        lines.append('It does not count yet: "pin" is not among the proofs of this peer, and unknown_issuer = "reject".')
    return Text("\n".join(map(printable, lines)))


def pending(rows: list[Row]) -> RenderableType:
    """Not a table: each certificate is compared by itself, a changed one beside those before."""
    return lines(line for row in rows for line in _pending(row)) if rows else "No certificate waits."


def lines(told: Iterator[str]) -> RenderableType:
    return Group(Text("\n".join(printable(line, 2000) for line in told)))


def _pending(row: Row) -> Iterator[str]:
    yield f"{row['peer']}  {row['key']}"
    often = f"{row['times']} times since {moment(row['first'])}, last {moment(row['last'])}"
    yield f"    came       {often}, {row['direction']} at {row['address'] or '-'}, for {row['local']}"
    yield f"    refused    {row['cause'] or 'no: dialback went on in its stead'}"
    yield f"    waiting    {row['waiting']} stanzas"
    for number, one in enumerate(row["chain"]):
        yield from certificate(one, "certificate" if number == 0 else f"issuer {number}", 4)
    for old in row["remembered"]:
        state = "revoked" if old["revoked"] else f"{old['origin']}, since {moment(old['at'])}"
        yield f"    REMEMBERED {old['key']} ({state})"
        if old["certificate"]:
            yield from certificate(old["certificate"], "which was", 6)
    yield from _dns(row["dns"])
    yield from (f"      {reason}" for reason in row["reasons"])
    yield f"    approve    s2sgw pins approve {row['peer']} {row['key']}"
    yield ""


def certificate(row: Row, what: str, indent: int) -> Iterator[str]:
    """One certificate in words."""
    space = " " * indent
    if row["unreadable"]:
        yield f"{space}{what}: cannot be read ({row['unreadable']})"
        return
    by = "itself" if row["self_signed"] else row["issuer"]
    yield f"{space}{what}: {row['subject'] or '(no subject)'}, issued by {by}"
    yield f"{space}  names    {', '.join(row['names']) or 'none'}"
    yield f"{space}  valid    {moment(row['not_before'])} to {moment(row['not_after'])}"
    yield f"{space}  key      {row['kind']}, {row['key']}"
    yield f"{space}  sha-256  {row['sha256']}"


def _dns(facts: Row) -> Iterator[str]:
    for each in facts.get("targets", ()):
        secured = "secured by DNSSEC" if each["secure"] else "not secured"
        yield f"    DNS        {each['host']}:{each['port']} at {', '.join(each['addresses'])}, {secured}"
    for each in facts.get("tlsa", ()):
        yield f"    TLSA       {each['target']}: {each['failure'] or ', '.join(each['records']) or 'none'}"
    if facts.get("posh"):
        yield f"    POSH       {facts['posh']}"
