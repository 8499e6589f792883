"""What the admin socket answers: the rows that the gateway's parts give, chosen and counted by peer (docs/admin.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from s2sgw.admin.server import Arguments, Rows, Verb, VerbError
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
    blocked: str | None  # why what waits is not written (`delivery.queue.Blocked`)
    full: list[str]  # which bounds are reached: "memory share", "disk share", "disk"


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
    letter: NotRequired[str | None]  # all of it as a text to the other administrator, where it was asked for
    no_letter: NotRequired[str]  # where `letter` is None: why there is none to write


class PeerRow(TypedDict):
    """One peer that a stream, a lane or a refusal speaks of: what is open, what waits, what went wrong."""

    peer: str
    inbound: int  # open streams
    outbound: int
    methods: list[str]  # by what its streams were proven
    waiting: int  # stanzas, in both directions
    refusals: int
    last_refusal: dict[str, Any] | None  # {"at": …, "layer": …, "cause": …}
    disabled: list[str]  # extensions that broke the peer's streams and are not used for a day
    without: list[str]  # the same, under its former name


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
    peer_certificates: NotRequired[list[dict[str, Any]]]  # {"peer", "ends"}: those that end soon (`admin.peer_certificates`)
    backends: list[dict[str, Any]]  # our own servers: `backend.health.BackendHealth.row`
    alerts: list[str]  # what an operator should look into, a sentence each


@dataclass(frozen=True, slots=True)
class RefusalsAsked:
    """Which refusals are asked for: of one peer or of all, how many of the last ones, with a letter each or without."""

    peer: Domain | None
    limit: int
    letters: bool


@dataclass(frozen=True, slots=True)
class Views:
    """What the verbs are answered from. Rows are made one by one, and None is a step of the work that gave no row."""

    status: Callable[[], Any]  # a StatusReport, or a Deferred of it
    streams: Callable[[Domain | None], Iterator[StreamRow | None]]
    queues: Callable[[Domain | None], Iterator[LaneRow | None]]
    refusals: Callable[[RefusalsAsked], Iterator[RefusalRow | None]]  # oldest first
    certificates: Callable[[], Iterator[CertificateRow]]
    peers: Callable[[Domain | None], Iterator[PeerRow | None]]  # in the order of their names


def verbs(views: Views) -> dict[str, Verb]:
    """Return the registry for `AdminService`."""
    return {
        "status": lambda _: views.status(),
        "streams": lambda arguments: _limited(views.streams, arguments),
        "lanes": lambda arguments: _limited(views.queues, arguments),
        "refusals": lambda arguments: Rows(views.refusals(_refusals_asked(arguments))),
        "peers": lambda arguments: _limited(views.peers, arguments),
        "certs": lambda _: Rows(views.certificates()),
    }


def _limited(view: Callable[[Domain | None], Iterator[Any]], arguments: Arguments) -> Rows:
    """Return the rows of one peer where one is named, up to the limit."""
    return Rows(_first(view(peer_asked(arguments)), limit_asked(arguments)))


def _first(rows: Iterator[Any], limit: int) -> Iterator[Any]:
    for row in rows:
        yield row
        limit -= row is not None
        if not limit:
            return


def _refusals_asked(arguments: Arguments) -> RefusalsAsked:
    letters = arguments.get("letter", False)
    if not isinstance(letters, bool):
        raise VerbError("letter must be true or false", "usage")
    return RefusalsAsked(peer_asked(arguments), limit_asked(arguments), letters)


def limit_asked(arguments: Arguments) -> int:
    """Return how many rows are asked for; raises `VerbError`."""
    limit = arguments.get("limit", LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise VerbError(f"limit must be a number from 1 to {MOST}", "usage")
    return limit


def peer_asked(arguments: Arguments) -> Domain | None:
    """Return the peer that is named, if one is; raises `VerbError`."""
    peer = arguments.get("peer")
    if peer is None:
        return None
    try:
        return Domain.parse(peer)
    except (InvalidJID, TypeError, AttributeError):
        raise VerbError("peer must be a domain name", "usage") from None
