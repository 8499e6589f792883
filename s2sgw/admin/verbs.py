"""The verbs that show the gateway: their rows, chosen by peer and limited in number (docs/admin.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from s2sgw.admin.protocol import MissingRow
from s2sgw.admin.server import Arguments, Rows, Verb, VerbError
from s2sgw.xmpp.jid import Domain, InvalidJID

#: Rows of one response by default, and at most.
LIMIT = 1000
MOST = 100_000
#: Seconds that an argument may have at most: about 300 years.
MOST_SECONDS = 10**10


class StreamRow(TypedDict):
    """One stream of either leg. Durations are seconds until now."""

    leg: str  # "federation" or "backend"
    direction: str  # "inbound" (stanzas come from the peer) or "outbound"
    peer: str
    local: str
    state: str  # "negotiating", "proven", "closing"
    method: str | None  # how the first pair was authenticated
    pairs: list[list[str]]  # [[from, to], …]
    tls: str | None
    cipher: str | None
    address: str
    age: float
    reasons: list[str]  # the methods that were tried, and their results
    resumption: str | None  # "resumed": it continues a lost stream; "possible": it can be resumed if it is lost
    node: NotRequired[str]  # in a cluster: whose row this is


class LaneRow(TypedDict):
    """One lane: the delivery queue of one pair of domains."""

    sender: str
    recipient: str
    direction: str
    state: str  # "idle", "connecting", "ready", "broken", "backing off"
    stanzas: int  # that wait
    bytes: int
    oldest: float  # seconds that the first of them has waited
    cause: str | None  # why the last attempt failed
    retry: float | None  # seconds until the next one
    blocked: str | None  # why waiting stanzas are not written (`delivery.queue.Blocked`)
    full: list[str]  # which bounds are reached: "memory share", "disk share", "disk"
    node: NotRequired[str]


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
    times: int  # consecutive identical failures since `first`
    first: float
    letter: NotRequired[str | None]  # all of it as a text to the other administrator, where it was asked for
    no_letter: NotRequired[str]  # if `letter` is None: why there is none
    node: NotRequired[str]


class PeerRow(TypedDict):
    """One peer: one that was authenticated before, or that has a stream, a lane or a refusal."""

    peer: str
    inbound: int  # open streams
    outbound: int
    methods: list[str]  # how its open streams were authenticated
    last_seen: float | None  # seconds since the epoch: when it was last authenticated
    last_method: str | None  # how, then: "pkix", "dane", "posh", "pin", "dialback", "dns", …
    certificate_until: float | None  # seconds since the epoch: when the certificate expires that it presented last
    waiting: int  # stanzas, in both directions
    refusals: int
    last_refusal: dict[str, Any] | None  # {"at": …, "layer": …, "cause": …}
    disabled: list[str]  # extensions that are not used with the peer for a day
    without: list[str]  # the former name of `disabled`
    node: NotRequired[str]


class CertificateRow(TypedDict):
    """The certificate that the gateway presents for one local domain. Without one, `expires` is None."""

    domain: str
    name: str | None  # of the file
    names: list[str]  # of its subjectAltName
    expires: float | None  # seconds since the epoch
    left: float | None  # seconds from now
    fingerprint: str | None
    node: NotRequired[str]


class StatusReport(TypedDict):
    """An overview of the gateway."""

    version: str
    config: str
    uptime: float
    domains: list[str]
    listeners: list[dict[str, str]]  # {"purpose": "federation", "endpoint": "tcp:5269"}; "closed": why, if it is not open now
    streams: list[dict[str, Any]]  # {"leg": …, "direction": …, "number": …}
    stanzas: list[dict[str, Any]]  # {"direction": …, "kind": …, "outcome": …, "number": …}
    waiting: dict[str, float]  # {"stanzas": …, "bytes": … (in memory), "disk_bytes": …, "oldest": …}
    refusals: int
    broken: int  # streams towards us that broke off and may be resumed
    peer_certificates: NotRequired[list[dict[str, Any]]]  # {"peer", "ends"}: those that end soon (`admin.peer_certificates`)
    backends: list[dict[str, Any]]  # our own servers: `backend.health.BackendHealth.row`
    alerts: list[str]  # problems for the operator, a sentence each
    node: NotRequired[str]  # in a cluster: this node, the same of the other nodes, and those that gave no answer
    nodes: NotRequired[list[dict[str, Any]]]
    missing: NotRequired[list[MissingRow]]


@dataclass(frozen=True, slots=True)
class RefusalsAsked:
    """The requested refusals: of one peer or of all, the number of the last ones, and whether with letters."""

    peer: Domain | None
    limit: int
    letters: bool


@dataclass(frozen=True, slots=True)
class Views:
    """The sources of the verbs. Rows are made one by one; None is a step of the work without a row."""

    status: Callable[[], Any]  # a StatusReport, or a Deferred of it
    streams: Callable[[Domain | None], Iterator[StreamRow | None]]
    queues: Callable[[Domain | None], Any]  # a Deferred of an iterator of LaneRow | None
    refusals: Callable[[RefusalsAsked], Iterator[RefusalRow | None]]  # oldest first
    certificates: Callable[[], Iterator[CertificateRow]]
    peers: Callable[[Domain | None], Iterator[PeerRow | None]]  # in the order of their names
    names: Callable[[str], Iterator[str | None]]  # the names of peers that begin with a prefix


def verbs(views: Views) -> dict[str, Verb]:
    """Return the registry for `AdminService`."""
    return {
        "status": lambda _: views.status(),
        "streams": lambda arguments: _limited(views.streams, arguments),
        "lanes": lambda arguments: _limited_later(views.queues, arguments),
        "refusals": lambda arguments: Rows(views.refusals(_refusals_asked(arguments))),
        "peers": lambda arguments: _limited(views.peers, arguments),
        "names": lambda arguments: Rows(_first(views.names(_prefix_asked(arguments)), limit_asked(arguments))),
        "certs": lambda _: Rows(views.certificates()),
    }


def _limited(view: Callable[[Domain | None], Iterator[Any]], arguments: Arguments) -> Rows:
    """Return the rows, or only those of a named peer, up to the limit."""
    return Rows(_first(view(peer_asked(arguments)), limit_asked(arguments)))


async def _limited_later(view: Callable[[Domain | None], Any], arguments: Arguments) -> Rows:
    """Do the same for rows that are ready later."""
    peer, limit = peer_asked(arguments), limit_asked(arguments)
    return Rows(_first(await view(peer), limit))


def _first(rows: Iterator[Any], limit: int) -> Iterator[Any]:
    for row in rows:
        yield row
        limit -= row is not None
        if not limit:
            return


def _refusals_asked(arguments: Arguments) -> RefusalsAsked:
    return RefusalsAsked(peer_asked(arguments), limit_asked(arguments), flag_argument(arguments, "letter"))


def _prefix_asked(arguments: Arguments) -> str:
    prefix = arguments.get("prefix", "")
    if not isinstance(prefix, str):
        raise VerbError("prefix must be text", "usage")
    return prefix.lower()


def flag_argument(arguments: Arguments, name: str) -> bool:
    """Return the argument `name`, which is false by default. Raises `VerbError`."""
    flag = arguments.get(name, False)
    if not isinstance(flag, bool):
        raise VerbError(f"{name} must be true or false", "usage")
    return flag


def seconds_argument(arguments: Arguments, name: str, least: float) -> float | None:
    """Return the seconds in the argument `name`, which are finite and at least `least`; None by default. Raises `VerbError`."""
    seconds = arguments.get(name)
    if seconds is None:
        return None
    # JSON has integers of any length, and Python reads 1e400, Infinity and NaN: the comparison is false for all of these
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= MOST_SECONDS:
        raise VerbError(f"{name} must be a number of seconds from {least:g} to {MOST_SECONDS}", "usage")
    return float(seconds)


def limit_asked(arguments: Arguments) -> int:
    """Return the number of requested rows. Raises `VerbError`."""
    limit = arguments.get("limit", LIMIT)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise VerbError(f"limit must be a whole number from 1 to {MOST}", "usage")
    return limit


def peer_asked(arguments: Arguments) -> Domain | None:
    """Return the named peer, or None. Raises `VerbError`."""
    return None if arguments.get("peer") is None else domain_argument(arguments)


def domain_argument(arguments: Arguments, name: str = "peer") -> Domain:
    """Return the domain in the argument `name`. Raises `VerbError`."""
    try:
        return Domain.parse(arguments.get(name))  # type: ignore[arg-type]
    except (InvalidJID, TypeError, AttributeError):
        raise VerbError(f"{name} must be a domain name", "usage") from None
