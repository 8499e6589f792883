"""What the admin socket answers: the rows that the gateway's parts give, chosen and counted by peer (docs/admin.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from s2sgw.admin.server import Arguments, Verb, VerbError
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Rows of one answer, unless the question says otherwise, and at most.
LIMIT = 1000
MOST = 100_000


class StreamRow(TypedDict):
    """One stream of either leg. Seconds are counted until now."""

    leg: str  # "federation" or "backend"
    direction: str  # "inbound" (stanzas come from the peer) or "outbound"
    peer: str
    local: str
    state: str  # "negotiating", "proven", "closing"
    method: str | None  # by what its first pair was proven
    pairs: list[list[str]]  # [[from, to], …]
    tls: str | None
    cipher: str | None
    address: str
    age: float
    reasons: list[str]  # what was tried to prove the other end
    resumption: str | None  # "resumed": it goes on with one that broke off; "possible": should it break off


class LaneRow(TypedDict):
    """One lane: the flow of stanzas of one pair of domains."""

    sender: str
    recipient: str
    direction: str
    state: str  # "idle", "connecting", "ready", "broken", "backing off"
    stanzas: int  # that wait
    bytes: int
    oldest: float  # seconds that the first of them has waited
    cause: str | None  # why the last attempt failed
    retry: float | None  # seconds until the next one


class RefusalRow(TypedDict):
    """One refused handshake or delivery (`reporting.record.Refused.row`)."""

    at: float  # seconds since the epoch
    direction: str
    leg: str
    peer: str
    local: str
    address: str
    layer: str
    cause: str
    detail: str
    by: str
    condition: str | None
    reasons: list[str]
    remedy: str
    times: int  # it happened so often in a row, since `first`
    first: float
    letter: str  # all of it as a text to the other administrator


class CertificateRow(TypedDict):
    """What the gateway presents for one local domain; without a certificate `expires` is None."""

    domain: str
    name: str | None  # of the file
    names: list[str]  # of its subjectAltName
    expires: float | None  # seconds since the epoch
    left: float | None  # seconds from now
    fingerprint: str | None


class StatusReport(TypedDict):
    """The gateway at a glance."""

    version: str
    config: str
    uptime: float
    domains: list[str]
    listeners: list[dict[str, str]]  # {"purpose": "federation", "endpoint": "tcp:5269"}
    streams: list[dict[str, Any]]  # {"leg": …, "direction": …, "number": …}
    stanzas: list[dict[str, Any]]  # {"direction": …, "kind": …, "outcome": …, "number": …}
    waiting: dict[str, float]  # {"stanzas": …, "bytes": …, "oldest": …}
    refusals: int
    broken: int  # streams towards us that broke off and may be resumed
    alerts: list[str]  # what an operator should look into, a sentence each


@dataclass(frozen=True, slots=True)
class Views:
    """What the verbs are answered from; each is called once for a question."""

    status: Callable[[], StatusReport]
    streams: Callable[[], Iterable[StreamRow]]
    queues: Callable[[], Iterable[LaneRow]]
    refusals: Callable[[], Iterable[RefusalRow]]  # oldest first
    certificates: Callable[[], Iterable[CertificateRow]]
    #: peers that an extension broke, with what is left out there
    without: Callable[[], Iterable[tuple[str, tuple[str, ...]]]] = tuple


def verbs(views: Views) -> dict[str, Verb]:
    """The registry for `AdminService`."""
    return {
        "status": lambda _: views.status(),
        "streams": lambda arguments: _chosen(views.streams(), arguments, ("peer",)),
        "lanes": lambda arguments: _chosen(views.queues(), arguments, ("sender", "recipient")),
        "refusals": lambda arguments: _latest(views.refusals(), arguments),
        "peers": lambda arguments: _chosen(peers(views), arguments, ("peer",)),
        "certs": lambda _: list(views.certificates()),
    }


def peers(views: Views) -> list[dict[str, Any]]:
    """One row for each peer that a stream, a lane or a refusal speaks of: what is open, what waits, what went wrong."""
    rows: dict[str, dict[str, Any]] = {}
    for stream in views.streams():
        if stream["leg"] == "federation" and stream["peer"]:
            row = _peer(rows, stream["peer"])
            row["inbound" if stream["direction"] == "inbound" else "outbound"] += 1
            if stream["method"] and stream["method"] not in row["methods"]:
                row["methods"].append(stream["method"])
    for pair_queue in views.queues():
        row = _peer(rows, pair_queue["recipient"] if pair_queue["direction"] == "outbound" else pair_queue["sender"])
        row["waiting"] += pair_queue["stanzas"]
    for refusal in views.refusals():
        row = _peer(rows, refusal["peer"])
        row["refusals"] += 1
        row["last_refusal"] = {"at": refusal["at"], "layer": refusal["layer"], "cause": refusal["cause"]}
    for peer, extensions in views.without():
        _peer(rows, peer)["without"] = list(extensions)
    return sorted(rows.values(), key=lambda row: str(row["peer"]))


def _peer(rows: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    empty = {
        "peer": name, "inbound": 0, "outbound": 0, "methods": [], "waiting": 0, "refusals": 0, "last_refusal": None,
        "without": [],
    }
    return rows.setdefault(name, empty)


def _chosen(rows: Iterable[Any], arguments: Arguments, keys: tuple[str, ...]) -> list[Any]:
    """The rows of one peer where one is named, up to the limit."""
    wanted, limit = peer_asked(arguments), limit_asked(arguments)
    chosen: list[Any] = []
    for row in rows:
        if wanted is None or any(normal(row[key]) == wanted for key in keys):
            if len(chosen) == limit:
                break
            chosen.append(row)
    return chosen


def _latest(rows: Iterable[RefusalRow], arguments: Arguments) -> list[Any]:
    """The last ones, up to the limit, oldest first."""
    chosen = _chosen(rows, {**arguments, "limit": MOST}, ("peer",))
    return chosen[-limit_asked(arguments) :]


def limit_asked(arguments: Arguments) -> int:
    limit = arguments.get("limit", LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise VerbError(f"limit must be a number from 1 to {MOST}", "usage")
    return limit


def peer_asked(arguments: Arguments) -> str | None:
    peer = arguments.get("peer")
    if peer is None:
        return None
    try:
        return Domain.parse(peer).ascii
    except (InvalidJID, TypeError, AttributeError):
        raise VerbError("peer must be a domain name", "usage") from None


def normal(name: str) -> str:
    """A name as it compares; one that is no domain, which a stranger may have claimed, as it stands."""
    try:
        return Domain.parse(name).ascii
    except InvalidJID:
        return name
