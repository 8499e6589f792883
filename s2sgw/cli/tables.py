"""The gateway's responses as text for a terminal. All text of peers goes through `printable`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from s2sgw.cli.text_table import Column, JSONRow, Screen, number, paragraphs, table
from s2sgw.reporting.printable import printable


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


def short_duration(seconds: float) -> str:
    """Return a duration in one unit, such as "5m", "6h" or "1d"."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


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


def domain_text(name: str) -> str:
    """Return the name of a peer as all tables show it, in U-labels; `name` may begin with "*."."""
    if "xn--" not in name:
        return name
    from s2sgw.xmpp.jid import Domain, InvalidJID  # here, because few names need it

    star = "*." if name.startswith("*.") else ""
    try:
        return f"{star}{Domain.parse(name.removeprefix(star))}"
    except InvalidJID:
        return name


def moment(at: float | None) -> str:
    """Return a time such as "2026-11-20 13:04:44Z", or a dash for None."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def minute(at: float | None) -> str:
    """Return a time without its seconds, such as "2026-11-20 13:04Z", or a dash for None."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%MZ")


def day(at: float | None) -> str:
    """Return a date such as "2026-11-20", or a dash for None."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _state(state: str) -> str:
    """Return the word for a lane's state. A lost stream that can be resumed is no failure."""
    return "resumable" if state == "broken" else state


def _stream_state(row: JSONRow) -> str:
    """Return the word for a stream's state. On the backend leg, "proven" is about our own server."""
    return "open" if row["state"] == "proven" else str(row["state"])


def _states(states: Sequence[str]) -> str:
    return joined([_state(state) for state in states])


def _oldest(row: JSONRow) -> str:
    return duration(row["oldest"]) if row["stanzas"] else "-"


def target_text(target: str) -> str:
    """Return what a hold is of, such as "PEER" or "FROM TO 17", with its names as all tables show them."""
    return " ".join(map(domain_text, target.split(" ")))


def _holds(held: Sequence[str]) -> str:
    return "; ".join(map(target_text, held)) or "-"


def _location(row: JSONRow) -> str:
    return f"{row['place']}, held" if row["held"] else str(row["place"])


def _kind(row: JSONRow) -> str:
    return f"{row['kind']} {row['type']}" if row["type"] else str(row["kind"])


def _last(refusal: JSONRow | None) -> str:
    return "-" if refusal is None else f"{minute(refusal['at'])} {refusal['layer']}/{refusal['cause']}"


def _method(row: JSONRow) -> str:
    """Return how a peer is verified: by its open streams, or else how it was when it was last seen."""
    return joined(row["methods"]) if row["methods"] else str(row.get("last_method") or "-")


def _seen(row: JSONRow) -> str:
    return "now" if row["inbound"] or row["outbound"] else minute(row.get("last_seen"))


STREAMS = (
    Column("peer", "peer"),
    Column("local", "local"),
    Column("direction", "direction"),
    Column("verified by", "method", rank=1),
    number("age", "age", duration, rank=2),
    Column("state", "", _stream_state, rank=3),
    Column("TLS", "tls", rank=4),
    Column("address", "address", rank=5),
    number("pairs", "pairs", len, rank=6),
    Column("resumption", "resumption", rank=7),
)
#: The streams of our own server. `peer` is a name that it wants to reach or to be reached by.
BACKEND_STREAMS = (
    Column("for peer", "peer"),
    Column("local", "local"),
    Column("direction", "direction"),
    Column("state", "", _stream_state, rank=1),
    number("age", "age", duration, rank=2),
    Column("server verified by", "method", rank=3),
    Column("TLS", "tls", rank=4),
    Column("address", "address", rank=5),
    Column("resumption", "resumption", rank=7),
)
LANES = (
    Column("from", "sender"),
    Column("to", "recipient"),
    number("waiting", "stanzas"),
    number("oldest", "", _oldest, rank=1),
    Column("state", "state", _state, rank=2),
    Column("last failure", "cause", rank=3),
    number("next attempt", "retry", duration, rank=4),
    Column("blocked by", "blocked", rank=5),
    number("bytes", "bytes", size, rank=6),
    Column("full", "full", joined, rank=7),
)
PEERS = (
    Column("peer", "peer"),
    Column("last seen", "", _seen, rank=1),
    Column("verified by", "", _method, rank=2),
    number("in", "inbound", rank=4),
    number("out", "outbound", rank=4),
    number("waiting", "waiting", rank=3),
    Column("certificate until", "certificate_until", day, rank=5),
    number("refusals", "refusals", rank=6),
    Column("last refusal", "last_refusal", _last, rank=7),
    Column("disabled extensions", "disabled", joined, rank=8),
)
CERTIFICATES = (
    Column("domain", "domain"),
    number("left", "left", duration),
    Column("expires", "expires", minute, rank=1),
    Column("certificate", "name", rank=2),
    Column("names", "names", joined, rank=3),
)
QUEUE = (
    Column("peer", "peer"),
    number("waiting", "stanzas"),
    number("oldest", "", _oldest, rank=1),
    Column("state", "states", _states, rank=2),
    Column("last failure", "cause", rank=3),
    number("next attempt", "retry", duration, rank=4),
    Column("held", "held", _holds, rank=5),
    number("bytes", "bytes", size, rank=6),
    Column("blocked by", "blocked", joined, rank=7),
    number("lanes", "lanes", rank=8),
    Column("full", "full", joined, rank=9),
)
QUEUED = (
    Column("from", "sender"),
    Column("to", "recipient"),
    number("number", "number"),
    number("age", "age", duration, rank=1),
    Column("kind", "", _kind, rank=2),
    number("bounced in", "left", duration, rank=3),
    Column("location", "", _location, rank=4),
    number("bytes", "bytes", size, rank=5),
    Column("id", "id", rank=6),
)
#: The side that ended a connection, as a refusal shows it; "us" is not shown.
_CLOSED_BY = {"them": "by the peer", "network": "by the network"}
_STANZAS = (
    Column("direction", "direction"),
    Column("kind", "kind"),
    Column("outcome", "outcome"),
    number("number", "number"),
)


def by_node(row: JSONRow) -> str:
    """Return which node of a cluster has answered; "" without a cluster."""
    return f" by node {printable(row['node'])}" if row.get("node") else ""


def on_nodes(answer: JSONRow) -> list[str]:
    """Return the sentence about the nodes of a cluster that have made a change; none without a cluster."""
    nodes = sorted((answer["node"], *answer.get("nodes", ()))) if answer.get("node") else []
    return [f"Done by {'node' if len(nodes) == 1 else 'nodes'} {', '.join(nodes)}."] if nodes else []


def with_node(columns: Sequence[Column], rows: Sequence[JSONRow]) -> list[Column]:
    """Return the columns, and that of the node if the rows are those of several nodes."""
    first, *others = columns
    return [first, Column("node", "node", rank=1), *others] if any("node" in row for row in rows) else list(columns)


def streams(rows: list[JSONRow], screen: Screen, everything: bool = True) -> str:
    """Return the open streams: those with peers, then (with `everything`) those of our own server."""
    ours = [row for row in rows if row["leg"] == "backend"]
    peers = [row for row in rows if row["leg"] != "backend"]
    text = table(with_node(STREAMS, peers), peers, screen) if peers else "No stream with a peer is open."
    if ours and everything:
        return f"{text}\n\nStreams of your own server:\n{table(with_node(BACKEND_STREAMS, ours), ours, screen)}"
    if ours and not peers:
        return f"{text} {counted(len(ours), 'stream')} of your own server: --all"
    return text


def lanes(rows: list[JSONRow], screen: Screen) -> str:
    """Return the lanes as a table."""
    return table(with_node(LANES, rows), rows, screen) if rows else "Nothing is queued and no connection is open."


def peers(rows: list[JSONRow], screen: Screen, peer: str | None = None) -> str:
    """Return the peers as a table. `peer`: only this one was asked for."""
    if rows:
        return table(with_node(PEERS, rows), rows, screen)
    return "No peer is known, and no peer was refused." if peer is None else f"{peer} is not known, and was not refused."


def certificates(rows: list[JSONRow], screen: Screen) -> str:
    """Return the certificates of the local domains as a table."""
    return table(with_node(CERTIFICATES, rows), rows, screen) if rows else "There is no local domain."


def queue(rows: list[JSONRow], screen: Screen) -> str:
    """Return the waiting stanzas by peer as a table."""
    return table(with_node(QUEUE, rows), rows, screen) if rows else "No stanzas wait."


def ages(answer: JSONRow, screen: Screen) -> str:
    """Return the ages of the waiting stanzas by peer. A stanza is counted in the first column that its age fits."""
    bounds = answer["bounds"]
    heads = [*(f"<{short_duration(bound)}" for bound in bounds), f">{short_duration(bounds[-1])}"]
    columns = [Column("peer", "peer"), number("waiting", "stanzas"), *(number(head, head) for head in heads)]
    columns.append(number("not read", "unread", rank=1))
    columns = with_node(columns, answer["rows"])
    rows = [{**row, **dict(zip(heads, row["ages"], strict=True)), "unread": row["unread"] or None} for row in answer["rows"]]
    return table(columns, rows, screen) if rows else "No stanzas wait."


def stanzas(rows: list[JSONRow], screen: Screen) -> str:
    """Return the stanzas as a table. The text of a single requested stanza follows."""
    texts = [printable(row["data"], len(row["data"])) for row in rows if row["data"] is not None]
    return "\n\n".join([table(with_node(QUEUED, rows), rows, screen), *texts]) if rows else "No stanzas wait."


def poison(rows: list[JSONRow], _screen: Screen) -> str:
    """Return the poison stanzas, each with its text."""
    heads = (f"{moment(row['at'])}  {row['sender']} -> {row['recipient']}  {row['kind']}  {row['cause']}" for row in rows)
    texts = [f"{printable(head)}\n    {printable(row['data'], len(row['data']))}" for head, row in zip(heads, rows, strict=True)]
    return "\n".join(texts) or "There are no poison stanzas."


def refusals(rows: list[JSONRow], screen: Screen) -> str:
    """Return the refusals as paragraphs, so that you can copy a remedy into a mail."""
    return paragraphs((line for row in rows for line in _refusal(row)), screen) or "There are no refusals."


def _refusal(row: JSONRow) -> list[str]:
    names = f"peer {row['peer'] or '(unnamed)'}  local {row['local'] or '(unnamed)'}"
    head = f"{moment(row['at'])}  {row['direction']} {row['leg']}  {names}"
    node = f"  node {row['node']}" if row.get("node") else ""
    lines = [head + (f"  at {row['address']}" if row["address"] else "") + node]
    said = f" ({_CLOSED_BY[row['by']]})" if row["by"] in _CLOSED_BY else ""
    often = f", {counted(row['times'], 'time')} since {moment(row['first'])}" if row.get("times", 1) > 1 else ""
    lines.append(f"    {row['layer']}/{row['cause']}{said}{often}" + (f": {row['detail']}" if row["detail"] else ""))
    lines += [f"      {reason}" for reason in row["reasons"]]
    lines.append(f"    remedy: {row['remedy']}")
    return lines


def status(answer: JSONRow, screen: Screen) -> str:
    """Return the overview of the gateway. In a cluster: of this node, and then of each other one."""
    return "\n\n".join([_status(answer, screen), *(_status(each, screen) for each in answer.get("nodes", ()))])


def _status(answer: JSONRow, screen: Screen) -> str:
    lines = [
        *([f"node       {answer['node']}"] if answer.get("node") else []),
        f"s2sgw {answer['version']}, running for {duration(answer['uptime'])} on {answer['config']}",
        f"domains    {', '.join(answer['domains'])}",
        *(_listener(row) for row in answer["listeners"]),
        *(f"backend    {_backend(row)}" for row in answer.get("backends", ())),
        f"streams    {', '.join(_number(row) for row in answer['streams']) or 'none'}",
        f"waiting    {_waiting(answer['waiting'])}",
        *([f"resumable  {counted(answer['broken'], 'lost stream')}"] if answer["broken"] else []),
        f"refusals   {answer['refusals']}",
        *(f"ends soon  certificate of {row['peer']}, {moment(row['ends'])}" for row in answer.get("peer_certificates", ())),
        *(f"ALERT      {alert}" for alert in answer.get("alerts", ())),
    ]
    text = paragraphs(lines, screen)
    return f"{text}\n\n{table(_STANZAS, answer['stanzas'], screen)}" if answer["stanzas"] else text


def _listener(row: JSONRow) -> str:
    place = f"{row['endpoint']} ({row['purpose']})"
    return f"closed     {place}: {row['closed']}" if row.get("closed") else f"listens    {place}"


def cluster(answer: JSONRow, screen: Screen) -> str:
    """Return a node of a cluster, the other nodes, and the engine; then the same of the other nodes that answered."""
    return "\n\n".join([_cluster(answer, screen), *(_cluster(each, screen) for each in answer.get("nodes", ()))])


def _cluster(answer: JSONRow, screen: Screen) -> str:
    heartbeat, lease, engine = answer["heartbeat"], answer["lease"], answer["engine"]
    lines = [
        f"node       {answer['node']}, {'not joined' if answer['session'] is None else 'a member'}",
        f"homes      {counted(answer['homes'], 'peer')}, {answer['takeovers']} taken over",
        f"lease      {'over: nothing is written to streams' if not lease else f'{lease:.1f} s'}",
        f"heartbeat  {'none is acknowledged' if heartbeat is None else f'acknowledged {heartbeat:.1f} s ago'}",
        f"engine     {'connected' if engine['connected'] else 'not connected: ' + engine['problem']}",
        *(f"other      {row['node']} at {row['listener']}: {row['state']}" for row in answer["others"]),
    ]
    return paragraphs(lines, screen)


def _backend(row: JSONRow) -> str:
    if row["state"] == "unknown":
        return f"{row['address']}: not tried yet"
    why = f": {row['detail']} ({row['cause']})" if row["cause"] else ""
    return f"{row['address']}: {row['state']} since {moment(row['since'])}{why}"


def _waiting(held: JSONRow) -> str:
    text = f"{counted(held['stanzas'], 'stanza')}, {size(held['bytes'])} in memory"
    if held.get("disk_bytes"):
        text += f", {size(held['disk_bytes'])} on disk"
    return text + (f", the oldest for {duration(held['oldest'])}" if held["stanzas"] else "")


def _number(row: JSONRow) -> str:
    return f"{row['number']} {row['direction']} on the {row['leg']} leg"


def letter(rows: list[JSONRow], screen: Screen) -> str:
    """Return the last refusal as a letter to the administrator of the peer."""
    if not rows:
        return "There are no refusals."
    return paragraphs((rows[-1]["letter"] or rows[-1]["no_letter"]).splitlines(), screen)


def draining(answer: JSONRow, _screen: Screen) -> str:
    """Return the response of `drain` as text."""
    fate = "are kept for the next start" if answer["kept"] else "are bounced"
    waiting, unsaved = counted(answer["waiting"], "stanza"), answer["unsaved"]
    if not unsaved:
        return f"The gateway stops. {waiting} waiting; those that cannot be delivered now {fate}."
    return (
        f"The gateway stops. {waiting} waiting; {unsaved} of them in memory only, because the disk is full or fails. Those of "
        "them that can be neither delivered nor bounced within seconds are lost, unless the sender's server keeps them "
        "(XEP-0198). "
        f"The log names their pairs. The others that cannot be delivered now {fate}."
    )


def complaints(path: str, texts: Sequence[str]) -> str:
    """Return the errors of a configuration."""
    return "\n".join([f"{path} has {counted(len(texts), 'error')}:", *(f"  {printable(text)}" for text in texts)])


def refused(answer: JSONRow) -> str:
    """Return why a reload was refused: the file has errors, or it cannot be applied now."""
    head = f"The reload of {answer['config']} was refused, and nothing has changed:"
    return "\n".join([head, *(f"  {printable(text)}" for text in answer["complaints"])])


def reloaded(answer: JSONRow, screen: Screen) -> str:
    """Return the result of a reload, one line for each change."""
    lines = [f"Configuration reloaded from {answer['config']}" + ("." if answer["changes"] else "; no changes.")]
    lines += [f"warning: {warning}" for warning in answer["warnings"]]
    lines += [f"  {row['key']}: {_value(row['old'])} -> {_value(row['new'])}" for row in answer["changes"]]
    lines += [f"  {answer['more_changes']} more keys"] if answer["more_changes"] else []
    lines += [f"  new certificate: {name}" for name in answer["certificates"]]
    lines += map(_closed, answer["closed"])
    return paragraphs(lines, screen)


def _closed(row: JSONRow) -> str:
    return f"  closed: {row['direction']} stream of {row['peer']} with {row['local']} ({row['cause']}: {row['detail']})"


def planned(answer: JSONRow, screen: Screen) -> str:
    """Return what a reload would change, and what only a restart would."""
    if not answer["changes"]:
        return paragraphs([f"A reload of {answer['config']} changes nothing."], screen)
    lines = [f"warning: {warning}" for warning in answer["warnings"]]
    for head, wanted in (("A reload changes:", False), ("Only a restart changes:", True)):
        rows = [row for row in answer["changes"] if bool(row["restart"]) is wanted]
        lines += [head] if rows else []
        for row in rows:
            why = f" ({row['restart']})" if row["restart"] else ""
            lines.append(f"  {row['key']}: {_value(row['old'])} -> {_value(row['new'])}{why}")
    lines += [f"  {answer['more_changes']} more keys"] if answer["more_changes"] else []
    lines += [] if answer["ok"] else ["`s2sgw reload` would refuse this file: all of it or nothing."]
    return paragraphs(lines, screen)


def _value(value: object) -> str:
    return "unset" if value is None else _copyable(json.dumps(value, ensure_ascii=False))


def _copyable(text: str) -> str:
    """Return a value that is written in JSON so that it can be copied to the file as it is shown, which doubles backslashes."""
    if not text.startswith('"') or "\\\\" not in text:
        return text
    value = str(json.loads(text))
    return f"'{value}'" if value.isprintable() and "'" not in value else text


def denied(names: list[str], _screen: Screen) -> str:
    """Return the peers that are denied by hand."""
    return "\n".join(printable(domain_text(name)) for name in names) or "No peer is denied by `s2sgw deny`."


def denial(answer: JSONRow, screen: Screen) -> str:
    """Return the result of `deny`, with the streams that were closed."""
    if answer["changed"]:
        state = "is denied" if answer["denied"] else "is no longer denied"
    else:
        state = "was denied already" if answer["denied"] else "was not denied"
    lines = [f"{domain_text(answer['peer'])} {state}.", *on_nodes(answer)]
    return paragraphs([*lines, *map(_closed, answer["closed"])], screen)


def forgotten(answer: JSONRow, screen: Screen) -> str:
    """Return the result of `forget`."""
    nouns = {"keys": "key", "pending": "pending certificate", "refusals": "refusal"}
    numbers = [counted(answer[key], noun) for key, noun in nouns.items()]
    proofs = "how it was verified, " if answer["proofs"] else ""
    return paragraphs([f"Forgotten of {domain_text(answer['peer'])}: {proofs}{', '.join(numbers)}.", *on_nodes(answer)], screen)


def settings(answer: JSONRow, screen: Screen) -> str:
    """Return keys with their values, and where they are set."""
    lines = (
        f"{row['key']} = {_copyable(row['text'])}" + (f"  # line {row['line']}" if row["line"] else "") for row in answer["keys"]
    )
    return paragraphs([f"# {answer['config']}", *lines], screen)
