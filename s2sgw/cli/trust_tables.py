"""The gateway's responses about trust for a terminal. All text of peers goes through `printable`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from s2sgw.cli.tables import Column, JSONRow, counted, moment, number, table
from s2sgw.reporting.printable import printable


def _counts(row: JSONRow) -> str:
    return "revoked" if row["revoked"] else "yes" if row["counts"] else "expired"


PINS = (
    Column("peer", "peer"),
    Column("key", "key"),
    Column("by", "origin"),
    Column("since", "at", moment),
    Column("expires", "expires", moment),
    Column("valid", "", _counts),
    Column("note", "note"),
)


def pins(rows: list[JSONRow]) -> RenderableType:
    """Return the keys as a table."""
    return table(PINS, rows) if rows else "There are no approved or remembered keys."


def revoked(row: JSONRow) -> RenderableType:
    """Return the result of a revocation."""
    done = "deleted" if row["forgotten"] else "revoked"
    return Text(f"{printable(row['key'])} of {printable(row['peer'])} is {done}; {counted(row['closed'], 'stream')} closed.")


def approved(row: JSONRow) -> RenderableType:
    """Return the result of an approval. Warn if the policy of the peer ignores approved keys."""
    until = "until it is revoked" if row["expires"] is None else f"until {moment(row['expires'])}"
    lines = [f"{row['key']} is approved for {row['peer']} {until}."]
    if not row["counts"]:
        lines.append('The key has no effect yet: "pin" is not in the proofs of this peer, and unknown_issuer is "reject".')
    return Text("\n".join(map(printable, lines)))


def pending(rows: list[JSONRow]) -> RenderableType:
    """Return the pending certificates as paragraphs, each with the previous keys of the peer."""
    return lines(line for row in rows for line in _pending(row)) if rows else "No certificate waits for approval."


def lines(texts: Iterator[str]) -> RenderableType:
    """Return the lines as one text, escaped."""
    return Group(Text("\n".join(printable(line, 2000) for line in texts)))


def _pending(row: JSONRow) -> Iterator[str]:
    yield f"{row['peer']}  {row['key']}"
    often = f"{counted(row['times'], 'time')} since {moment(row['first'])}, last {moment(row['last'])}"
    yield f"    seen       {often}, {row['direction']} at {row['address'] or '-'}, for {row['local']}"
    yield f"    refused    {row['cause'] or 'no, dialback was used instead'}"
    yield f"    waiting    {counted(row['waiting'], 'stanza')}"
    for index, one in enumerate(row["chain"]):
        yield from certificate(one, "certificate" if index == 0 else f"issuer {index}", 4)
    for old in row["remembered"]:
        state = "revoked" if old["revoked"] else f"{old['origin']}, since {moment(old['at'])}"
        yield f"    REMEMBERED {old['key']} ({state})"
        if old["certificate"]:
            yield from certificate(old["certificate"], "previous certificate", 6)
    yield from _dns(row["dns"])
    yield from (f"      {reason}" for reason in row["reasons"])
    yield f"    approve    s2sgw pins approve {row['peer']} {row['key']}"
    yield ""


def certificate(row: JSONRow, what: str, indent: int) -> Iterator[str]:
    """Yield the lines that describe one certificate."""
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


def _dns(facts: JSONRow) -> Iterator[str]:
    for each in facts.get("targets", ()):
        secured = "signed with DNSSEC" if each["secure"] else "not signed with DNSSEC"
        yield f"    DNS        {each['host']}:{each['port']} at {', '.join(each['addresses'])}, {secured}"
    for each in facts.get("tlsa", ()):
        yield f"    TLSA       {each['target']}: {each['failure'] or ', '.join(each['records']) or 'none'}"
    if facts.get("posh"):
        yield f"    POSH       {facts['posh']}"


# --- explain ---------------------------------------------------------------------------------------------------------

def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "true", False: "false", None: "none"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)


def outcome(row: JSONRow) -> str:
    """Return a verdict in a few words."""
    if not row["accepted"]:
        return f"refused: {row['cause']}"
    ways = " or ".join(way for way, offered in (("EXTERNAL", row["external"]), ("dialback", row["dialback"])) if offered)
    if row["proven_by"]:
        return f"accepted, verified by {row['proven_by']}, authenticates by {ways}"
    return f"accepted, must authenticate by {ways}"


KEYS = (
    Column("key", "key"),
    Column("value", "value", _value),
    Column("from", "from"),
    number("line", "line"),
)
CHANGES = (
    Column("peer", "peer"),
    Column("direction", "direction"),
    Column("local", "local"),
    Column("last", "last", moment),
    number("times", "times"),
    Column("now", "before", outcome),
    Column("then", "after", outcome),
)


def explanation(row: JSONRow) -> RenderableType:
    """Return the policy of a peer, the records about it, and the verdict now."""
    return Group(lines(_head(row)), table(KEYS, row["keys"]), lines(_rest(row)))


def _head(row: JSONRow) -> Iterator[str]:
    yield f"{row['peer']} and {row['local']}, with {'the planned ' if row['planned'] else ''}{row['file']}"
    if row["changed"]:
        yield "The file has changed since it was read, or cannot be read. The line numbers may be wrong."
    if row["bar"]:
        yield f"NOT ALLOWED  {row['bar']}"
    named = ", then ".join(f"{each['name']} (line {each['line']})" for each in row["objects"])
    yield f"sections   {named or 'none, only defaults'}"


def _rest(row: JSONRow) -> Iterator[str]:
    shown = row["certificate"]
    yield f"we present {shown['name']}, valid until {moment(shown['expires'])}" if shown else "we present no certificate"
    if row["dns"]["cause"]:
        yield f"DNS        {row['dns']['cause']}: {row['dns']['detail']}"
    yield from _dns({"targets": row["dns"]["targets"]})
    for past in row["past"]:
        often = f"{counted(past['times'], 'time')} since {moment(past['first'])}, last {moment(past['last'])}"
        yield f"verified   by {past['method']}, {often}"
    for key in row["remembered"]:
        state = "revoked" if key["revoked"] else "valid" if key["counts"] else "expired"
        yield f"key        {key['key']} by {key['origin']} since {moment(key['at'])}: {state}"
    for each in row["pending"]:
        yield f"pending    {each['key']}, seen {counted(each['times'], 'time')}: {each['cause'] or 'accepted by dialback'}"
    for lane in row["lanes"]:
        blocked = f", blocked: {lane['blocked']}" if lane["blocked"] else ""
        full = f", full: {', '.join(lane['full'])}" if lane["full"] else ""
        yield f"queue      {lane['sender']} to {lane['recipient']}: {counted(lane['stanzas'], 'stanza')}{blocked}{full}"
    for direction, decided in row["now"].items():
        yield from _decided(direction, decided)
    for refusal in row["refusals"]:
        what = f"{refusal['direction']} {refusal['layer']}/{refusal['cause']}"
        yield f"refused    {moment(refusal['at'])} {what}, {counted(refusal['times'], 'time')}"


def _decided(direction: str, row: JSONRow) -> Iterator[str]:
    yield f"{direction}"
    last = row["last"]
    if last is not None:
        yield f"    now    {outcome(last)}"
        yield from (f"             {reason}" for reason in last["reasons"])
        yield f"    then   {outcome(last['then'])} (handshake of {moment(last['at'])} at {last['address']})"
        if last["certificate"]:
            yield from certificate(last["certificate"], "certificate", 11)
        if last["report"]:
            yield f"    report {last['report']}: lost_proof = \"refuse\" would refuse it"
    else:
        yield "    no handshake is recorded"
    yield f"    with a certificate that proves the peer: {outcome(row['if_proven'])}"
    yield f"    with no proof:                           {outcome(row['if_not'])}"


def replayed(answer: JSONRow) -> RenderableType:
    """Return the verdicts that a planned configuration would change."""
    handshakes = counted(answer["handshakes"], "recorded handshake")
    head = f"{handshakes} tested with {answer['file']}; {counted(len(answer['changed']), 'verdict')} would change."
    return Group(Text(printable(head)), table(CHANGES, answer["changed"])) if answer["changed"] else Text(printable(head))
