"""The gateway's responses about trust for a terminal. All text of peers goes through `printable`."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter

from s2sgw.cli.tables import counted, domain_text, minute, moment
from s2sgw.cli.text_table import Column, JSONRow, Screen, number, paragraphs, table
from s2sgw.reporting.printable import printable


def _counts(row: JSONRow) -> str:
    return "revoked" if row["revoked"] else "yes" if row["counts"] else "expired"


PINS = (
    Column("peer", "peer", domain_text),
    Column("key", "key"),
    Column("valid", "", _counts, rank=1),
    Column("by", "origin", rank=2),
    Column("expires", "expires", minute, rank=3),
    Column("since", "at", minute, rank=4),
    Column("note", "note", rank=5),
)


def pins(rows: list[JSONRow], screen: Screen) -> str:
    """Return the keys as a table."""
    return table(PINS, rows, screen) if rows else "There are no approved or remembered keys."


def revoked(row: JSONRow, _screen: Screen) -> str:
    """Return the result of a revocation."""
    done = "deleted" if row["forgotten"] else "revoked"
    peer = printable(domain_text(row["peer"]))
    return f"{printable(row['key'])} of {peer} is {done}; {counted(row['closed'], 'stream')} closed."


def approved(row: JSONRow, _screen: Screen) -> str:
    """Return the result of an approval. Warn if the policy of the peer ignores approved keys."""
    until = "until it is revoked" if row["expires"] is None else f"until {moment(row['expires'])}"
    lines = [f"{row['key']} is approved for {domain_text(row['peer'])} {until}."]
    if not row["counts"]:
        lines.append('The key has no effect yet: "pin" is not in the proofs of this peer, and unknown_issuer is "reject".')
    return "\n".join(map(printable, lines))


def pending(rows: list[JSONRow], screen: Screen) -> str:
    """Return the pending certificates as paragraphs, each with the previous keys of the peer."""
    return paragraphs((line for row in rows for line in _pending(row)), screen) if rows else "No certificate waits for approval."


def _pending(row: JSONRow) -> Iterator[str]:
    yield f"{domain_text(row['peer'])}  {row['key']}"
    often = f"{counted(row['times'], 'time')} since {moment(row['first'])}, last {moment(row['last'])}"
    yield f"    seen       {often}, {row['direction']} at {row['address'] or '-'}, for {domain_text(row['local'])}"
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

def outcome(row: JSONRow, direction: str = "inbound") -> str:
    """Return a verdict in a few words. `direction`: whether the peer connects to us ("inbound"), or we to the peer."""
    if not row["accepted"]:
        return f"refused: {row['cause']}"
    ways = " or ".join(way for way, offered in (("EXTERNAL", row["external"]), ("dialback", row["dialback"])) if offered)
    if row["proven_by"] is None:
        return f"accepted if {ways or 'SCRAM'} succeeds"  # without another way, the shared secret is left
    if row["proven_by"] == "dns":
        return "accepted, verified by DNS alone"
    who = "the peer" if direction == "inbound" else "we"
    return f"accepted, verified by {row['proven_by']}" + (f"; {who} can use {ways}" if ways else "")


CHANGES = (
    Column("peer", "peer", domain_text),
    Column("direction", "direction", rank=1),
    Column("now", "before", outcome),
    Column("then", "after", outcome),
    Column("local", "local", domain_text, rank=2),
    Column("last", "last", minute, rank=3),
    number("times", "times", rank=4),
)


def explanation(row: JSONRow, screen: Screen, everything: bool = False) -> str:
    """Return the verdict on a peer, its reasons, the last refusals, the certificate, and the settings.

    Settings with their default value are left out, and what else is on record, unless `everything` is set.
    """
    keys = [key for key in row["keys"] if everything or not key["default"]]
    left_out = len(row["keys"]) - len(keys)
    parts = [paragraphs(each, screen) for each in (_verdicts(row, everything), _known(row, everything), _sections(row, keys))]
    if left_out:
        parts.append(f"{left_out} settings have their default value: --all")
    return "\n\n".join(part for part in parts if part)


def _verdicts(row: JSONRow, everything: bool) -> Iterator[str]:
    yield f"{domain_text(row['peer'])} with {domain_text(row['local'])}" + (f", by node {row['node']}" if row.get("node") else "")
    if row["bar"]:
        yield f"NOT ALLOWED  {row['bar']}"
    for direction, decided in row["now"].items():
        yield from _decided(direction, decided, everything)
    for refusal in row["refusals"]:
        often = f" ({counted(refusal['times'], 'time')})" if refusal["times"] > 1 else ""
        yield f"refused   {moment(refusal['at'])}  {refusal['direction']} {refusal['layer']}/{refusal['cause']}{often}"
        yield f"          remedy: {refusal['remedy']}"


def _decided(direction: str, row: JSONRow, everything: bool) -> Iterator[str]:
    last = row["last"]
    if last is None:
        yield f"{direction:<9} no connection is recorded"
    else:
        yield f"{direction:<9} {outcome(last, direction)}"
        yield from (f"            {reason}" for reason in _reasons(last, everything))
        if everything or outcome(last["then"]) != outcome(last):
            yield f"          then: {outcome(last['then'], direction)} (connection of {moment(last['at'])} at {last['address']})"
        if last["report"]:
            yield f'          {last["report"]}: with lost_proof = "refuse" it would be refused'
    if everything or last is None:
        yield f"          with a certificate that proves the peer: {outcome(row['if_proven'], direction)}"
        yield f"          with no proof: {outcome(row['if_not'], direction)}"


def _reasons(last: JSONRow, everything: bool) -> list[str]:
    """Return the reasons of a verdict. If a method proved the peer, the others do not matter."""
    deciding = [reason for reason in last["reasons"] if reason.startswith(f"{last['proven_by']}: ")]
    return deciding if last["accepted"] and deciding and not everything else last["reasons"]


def _known(row: JSONRow, everything: bool) -> Iterator[str]:
    seen = [decided["last"] for decided in row["now"].values() if decided["last"] and decided["last"]["certificate"]]
    newest = max(seen, key=itemgetter("at"), default=None)
    if newest is not None:
        yield from certificate(newest["certificate"], f"certificate of the peer, seen {minute(newest['at'])}", 0)
    shown = row["certificate"]
    yield f"we present {shown['name']}, valid until {moment(shown['expires'])}" if shown else "we present no certificate"
    if row["dns"]["cause"]:
        yield f"DNS        {row['dns']['cause']}: {row['dns']['detail']}"
    elif everything:
        yield from (line.strip() for line in _dns({"targets": row["dns"]["targets"]}))
    for past in row["past"]:
        often = f"{counted(past['times'], 'time')} since {minute(past['first'])}, last {minute(past['last'])}"
        yield f"verified   by {past['method']}, {often}"
    for key in row["remembered"]:
        state = "revoked" if key["revoked"] else "valid" if key["counts"] else "expired"
        yield f"key        {key['key']} by {key['origin']} since {minute(key['at'])}: {state}"
    for each in row["pending"]:
        yield f"pending    {each['key']}, seen {counted(each['times'], 'time')}: {each['cause'] or 'accepted by dialback'}"
    for lane in row["lanes"]:
        blocked = f", blocked: {lane['blocked']}" if lane["blocked"] else ""
        full = f", full: {', '.join(_bound(each, row['peer']) for each in lane['full'])}" if lane["full"] else ""
        yield f"queue      {lane['sender']} to {lane['recipient']}: {counted(lane['stanzas'], 'stanza')}{blocked}{full}"


def _bound(name: str, peer: str) -> str:
    """Return the words for a bound of the queue. A share is that of the registered domain."""
    if not name.endswith(" share"):
        return name
    from s2sgw.xmpp.registered_domain import registered_domain  # here, because it reads a long list

    owner = registered_domain(peer)
    return f"{name} of {owner} with all its sub-domains" if owner != peer else name


def _sections(row: JSONRow, keys: list[JSONRow]) -> Iterator[str]:
    yield f"settings from {'the planned ' if row['planned'] else ''}{row['file']}"
    named = ", then ".join(f"[peers.{_quoted(each['name'])}] (line {each['line']})" for each in row["objects"])
    yield f"sections: {named or 'none, only defaults'}"
    if row["changed"]:
        yield "The file has changed since it was read, or cannot be read. The line numbers may be wrong."
    for key in keys:
        line = f", line {key['line']}" if key["line"] else ""
        yield f"  {key['key']} = {key['text']}  # {key['from']}{line}"


def _quoted(name: str) -> str:
    return name if name == "default" else f'"{name}"'


def replayed(answer: JSONRow, screen: Screen) -> str:
    """Return the verdicts that a planned configuration would change."""
    handshakes = counted(answer["handshakes"], "recorded handshake")
    head = f"{handshakes} tested with {answer['file']}; {counted(len(answer['changed']), 'verdict')} would change."
    return f"{printable(head)}\n\n{table(CHANGES, answer['changed'], screen)}" if answer["changed"] else printable(head)
