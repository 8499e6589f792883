"""The health of the existing server behind the gateway, and the causes of failed streams to it.

A failure on this leg is never a peer's. It gets a cause of the layer "backend", whose remedy is for our own administrator. The
log has one line when the server goes down and one when it is back, for any number of peers that write meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from twisted.logger import Logger

from s2sgw.net.dialing import DialFailed
from s2sgw.reporting.repetition import Clock as Seconds
from s2sgw.reporting.repetition import RepeatedEvents
from s2sgw.s2s.stream_outcomes import StreamDirection, StreamOutcomes
from s2sgw.xmpp.ending import MISTAKES, Cause, Ending, Layer
from s2sgw.xmpp.jid import Domain, Pair
from s2sgw.xmpp.wall_clock import WallClock

State = Literal["unknown", "up", "down"]

#: Seconds between two checks of a server when no stream shows that it is up, and between two attempts to reach one that is down.
CHECK_SECONDS = 60.0
DOWN_CHECK_SECONDS = 10.0
#: Seconds for which a server may use the gateway without a question to its name server before the operator is warned.
NO_QUESTION_SECONDS = 600.0

#: The server is not there at all, for any stream.
_ABSENT = frozenset({
    Cause.CONNECTION_REFUSED, Cause.CONNECTION_TIMEOUT, Cause.UNREACHABLE, Cause.DNS_UNREACHABLE, Cause.NO_SUCH_DOMAIN,
    Cause.RESOLVER_BUSY,
})
#: The server is there, and refuses all streams: it counts as down unless a stream shows otherwise.
_UNUSABLE = frozenset({
    Cause.BACKEND_TLS, Cause.BACKEND_NOT_PROVEN, Cause.BACKEND_DISTRUSTS_US, Cause.BACKEND_BYPASSES_VIEW,
})
_BY_CAUSE: dict[Cause, Cause] = {
    Cause.CONNECTION_REFUSED: Cause.BACKEND_REFUSED,
    Cause.CONNECTION_TIMEOUT: Cause.BACKEND_TIMEOUT,
    Cause.NEGOTIATION_TIMEOUT: Cause.BACKEND_TIMEOUT,
    Cause.UNRESPONSIVE: Cause.BACKEND_TIMEOUT,
    Cause.UNREACHABLE: Cause.BACKEND_UNREACHABLE,
    Cause.NOT_PROVEN: Cause.BACKEND_NOT_PROVEN,
    Cause.ENCRYPTION_REQUIRED: Cause.BACKEND_TLS,
    Cause.SASL_FAILED: Cause.BACKEND_DISTRUSTS_US,
    Cause.NO_COMMON_METHOD: Cause.BACKEND_DISTRUSTS_US,
    Cause.DIALBACK_INVALID: Cause.BACKEND_BYPASSES_VIEW,
    Cause.DIALBACK_ERROR: Cause.BACKEND_BYPASSES_VIEW,
    Cause.HOST_UNKNOWN: Cause.BACKEND_HOST_UNKNOWN,
    Cause.CONNECTION_LOST: Cause.BACKEND_FAILED,
    Cause.STREAM_ERROR: Cause.BACKEND_FAILED,
    Cause.PROTOCOL_ERROR: Cause.BACKEND_FAILED,
    Cause.BAD_XML: Cause.BACKEND_FAILED,
    Cause.LIMIT_EXCEEDED: Cause.BACKEND_FAILED,
    Cause.INVALID_FROM: Cause.BACKEND_FAILED,
    Cause.ADDRESSING: Cause.BACKEND_FAILED,
}
#: Stream errors that say nothing of the peer, or of the domain, for which a stream was refused.
_OF_THE_SERVER = frozenset({
    "connection-timeout", "internal-server-error", "remote-connection-failed", "reset", "resource-constraint", "system-shutdown",
    "undefined-condition",
})
_BY_LAYER: dict[Layer, Cause] = {
    Layer.DNS: Cause.BACKEND_UNREACHABLE,
    Layer.TCP: Cause.BACKEND_FAILED,
    Layer.TLS: Cause.BACKEND_TLS,
    Layer.PKIX: Cause.BACKEND_NOT_PROVEN,
}
#: The words of servers for a certificate that they do not accept: in a stream error, or by a TLS alert.
_CERTIFICATE = re.compile(r"certificate|not trusted|untrusted|unknown ca|self[- ]signed", re.IGNORECASE)
_WHAT = {
    Cause.BACKEND_DISTRUSTS_US: "does not trust {authority}",
    Cause.BACKEND_BYPASSES_VIEW: "could not verify the gateway by dialback, so its look-ups do not come to {view}",
    Cause.BACKEND_REFUSED: "refuses connections",
    Cause.BACKEND_TIMEOUT: "does not answer in time",
    Cause.BACKEND_UNREACHABLE: "cannot be reached",
    Cause.BACKEND_TLS: "does not agree on encryption",
    Cause.BACKEND_NOT_PROVEN: "does not prove itself",
    Cause.BACKEND_HOST_UNKNOWN: "does not serve the domain",
    Cause.BACKEND_FAILED: "ended the stream",
}


@dataclass(frozen=True, slots=True)
class BackendIdentity:
    """The name of a backend for operators: its address, its domains, the authority that it must trust, its DNS view."""

    address: str
    kind: str
    domains: tuple[str, ...]
    authority: str = "the gateway's authority"
    view: str | None = None


def attributed(ending: Ending, identity: BackendIdentity) -> Ending:
    """Return a failure on the way to a backend with its cause of the layer "backend". Our own decisions stay unchanged."""
    if ending.layer is Layer.BACKEND or (identity.kind == "jabberd2-router" and ending.cause is Cause.SASL_FAILED):
        return ending  # a router gets a secret and no certificate: the cause says what to check
    cause = _BY_CAUSE.get(ending.cause) or _BY_LAYER.get(ending.layer)
    if ending.cause is Cause.CLOSED and ending.by == "them":
        cause = Cause.BACKEND_FAILED
    if _speaks_of_our_certificate(ending):
        cause = Cause.BACKEND_DISTRUSTS_US
    if cause is None:
        return ending
    what = _WHAT[cause].format(authority=identity.authority, view=identity.view or "the DNS view")
    if ending.cause in MISTAKES or ending.cause is Cause.PROTOCOL_ERROR:
        what = "sent something wrong"
    said = ending.detail.removeprefix(f"{identity.address}: ")
    if ending.cause in (Cause.CONNECTION_REFUSED, Cause.CONNECTION_TIMEOUT):
        said = ""
    return Ending(cause, f"your server {identity.address} {what}" + (f": {said}" if said else ""), "us", ending.condition)


def _concerns_all(ending: Ending, told: Ending) -> bool:
    """Return whether a failed attempt says that the server takes no stream at all, if none is open.

    A stream error may be about the pair, unless its condition is one of those of the server itself.
    """
    if told.cause in _UNUSABLE or told.cause is Cause.BACKEND_TIMEOUT:
        return True
    return told.cause is Cause.BACKEND_FAILED and (ending.cause is not Cause.STREAM_ERROR or ending.condition in _OF_THE_SERVER)


def _speaks_of_our_certificate(ending: Ending) -> bool:
    """Return whether the text says that the server does not accept our certificate."""
    told = ending.by == "them" and ending.cause in (Cause.STREAM_ERROR, Cause.SASL_FAILED)
    return (told or ending.cause is Cause.TLS_FAILED) and _CERTIFICATE.search(ending.detail) is not None


class BackendHealth(StreamOutcomes):
    """The state of one backend: "unknown" until it was tried, "up", or "down", and since when."""

    log = Logger("s2sgw")

    def __init__(
        self, identity: BackendIdentity, wall: WallClock, recovered: Callable[[], object] = lambda: None,
        attempt: Callable[[BackendHealth], bool] | None = None, clock: Seconds | None = None,
    ) -> None:
        """Begin as "unknown". `recovered` is called when the server is up again: waiting stanzas may be tried at once.

        `attempt` tries one stream for stanzas that wait for this server, and returns whether there are any. It is called when the
        server takes connections, and took no stream. `clock` measures the time since the start, whatever becomes of the date;
        None: `wall` does.
        """
        self.identity = identity
        self.state: State = "unknown"
        #: the beginning of `state`, in seconds since the epoch
        self.since = wall.seconds()
        #: the reason why it is down
        self.ending: Ending | None = None
        #: questions to its DNS view since the start; None: it has no view
        self.questions: Callable[[], int] | None = None
        self._wall = wall
        self._recovered = recovered
        self._attempt = attempt
        #: open streams in both directions, and those that we opened
        self._open = self._ours = 0
        self._checked_at = float("-inf")
        self._absent = False
        #: whether it took connections, and no stream, when it was tried last
        self._took_none = False
        #: the causes that were logged since the server was up: they may alternate
        self._causes: set[Cause] = set()
        self._retired = False
        self._served = False
        self._clock = clock or wall
        self._began = self._clock.seconds()
        self._told = RepeatedEvents(wall)

    def adopt(self, identity: BackendIdentity) -> None:
        """Use this identity from now on. At another address the server has not been tried yet."""
        if identity.address != self.identity.address:
            self.state, self.since, self.ending = "unknown", self._wall.seconds(), None
            self._absent = self._took_none = False
            self._causes.clear()
            self._checked_at = float("-inf")
        self.identity = identity

    def retire(self) -> None:
        """Log nothing more: the backend was removed from the configuration. Streams to it may still end."""
        self._retired = True

    # --- StreamOutcomes ---

    def attribute(self, ending: Ending) -> Ending:
        return attributed(ending, self.identity)

    def attempt_failed(self, pair: Pair | None, ending: Ending) -> None:
        told = self.attribute(ending)
        if ending.cause in _ABSENT:
            self._down(told, absent=True)
        elif not self._ours and _concerns_all(ending, told):
            self._down(told, absent=False)
        elif told.layer is Layer.BACKEND and pair is not None and self._told.is_news(told.cause, (told, pair)):
            self._tell_refused(told, pair)

    def accepted_failed(self, names: tuple[str, str], ending: Ending) -> Ending:
        """Attribute the failure to the server if it does not accept our certificate.

        Any local process may have opened the stream.
        """
        if not _speaks_of_our_certificate(ending):
            return ending
        told = self.attribute(ending)
        if not self._open:
            self._down(told, absent=False)
        return told

    def opened(self, direction: StreamDirection, peer: Domain, method: str, tls: str | None) -> None:
        self._served = True
        if direction == "outbound":
            self.verifies()
            return
        self._open += 1
        self._checked_at = float("-inf")  # a server that is down may be back
        if self.state == "unknown" and not self._took_none:
            self._up()

    def verifies(self) -> None:
        self._open += 1
        self._ours += 1
        self._up()

    def closed(self, direction: StreamDirection) -> None:
        self._open -= 1
        self._ours -= direction == "outbound"

    # --- periodic checks ---

    def wants_check(self, now: float) -> bool:
        """Return whether a check is due: the server is down, or no stream shows that it is there. `now` is the wall clock's."""
        period = DOWN_CHECK_SECONDS if self.state == "down" else CHECK_SECONDS
        return (self.state == "down" or not self._open) and not 0 <= now - self._checked_at < period

    async def check(self, connect: Callable[[], Awaitable[None]]) -> None:
        """Connect to the server's port if a check is due, and note the result. `connect` raises `DialFailed`."""
        now = self._wall.seconds()
        if not self.wants_check(now):
            return
        self._checked_at = now
        try:
            await connect()
        except DialFailed as failed:
            self._down(self.attribute(failed.ending), absent=True)
        else:
            if self._absent or (self.state == "unknown" and not self._took_none):
                self._up()
            elif self.state != "up" and self._attempt is not None and not self._attempt(self) and self.state == "down":
                self.state, self.since, self.ending = "unknown", self._wall.seconds(), None  # the next stream will tell

    def tell_repeated(self, at_once: bool = False) -> None:
        """Log the refusals that were only counted for a minute."""
        for (ending, pair), number in self._told.due(at_once):
            self._tell_refused(ending, pair, times=number)

    # --- for operators ---

    def row(self) -> dict[str, Any]:
        """Return the row for `status`."""
        ending = self.ending
        return {
            "address": self.identity.address, "kind": self.identity.kind, "domains": list(self.identity.domains),
            "state": self.state, "since": self.since, "streams": self._open,
            "cause": ending.cause.value if ending else None, "detail": ending.detail if ending else "",
            "remedy": ending.remedy if ending else "", "view": self.identity.view,
            "questions": None if self.questions is None else self.questions(),
        }

    def alerts(self) -> list[str]:
        """Return a sentence for each problem that an operator should fix."""
        if self.state == "down" and self.ending is not None:
            return [f"{self.ending.detail}. {self.ending.remedy}"]
        if self.questions is not None and self._served and not self.questions():
            age = self._clock.seconds() - self._began
            if age >= NO_QUESTION_SECONDS:
                return [
                    f"your server {self.identity.address} has not asked the DNS view {self.identity.view} since the gateway "
                    f"started {age / 60:.0f} minutes ago: its users' stanzas go past the gateway, or nowhere. "
                    f"{Ending(Cause.BACKEND_BYPASSES_VIEW).remedy}"
                ]
        return []

    # --- changes ---

    def _down(self, ending: Ending, absent: bool) -> None:
        changed = self.state != "down" or self.ending is None or self.ending.cause is not ending.cause
        self._absent, self._took_none = absent, not absent
        if not changed or self._retired:
            return
        if self.state != "down":
            self.since = self._wall.seconds()
        self.state, self.ending = "down", ending
        if ending.cause in self._causes:
            return
        self._causes.add(ending.cause)
        self.log.warn(
            event="backend down", leg="backend", backend=self.identity.address, domains=list(self.identity.domains),
            layer=ending.layer.value, cause=ending.cause.value, detail=ending.detail, remedy=ending.remedy,
        )

    def _up(self) -> None:
        self._absent = self._took_none = False
        if self.state == "up" or self._retired:
            return
        self._causes.clear()
        was, since = self.state, self.since
        self.state, self.since, self.ending = "up", self._wall.seconds(), None
        after: dict[str, Any] = {"down_for": round(self.since - since)} if was == "down" else {}
        self.log.info(
            event="backend up", leg="backend", backend=self.identity.address, domains=list(self.identity.domains), **after,
        )
        if was == "down":
            self._recovered()

    def _tell_refused(self, ending: Ending, pair: Pair, **more: Any) -> None:
        """Log a stream that the server refuses while it accepts others, once a minute for each cause."""
        self.log.warn(
            event="backend refused a stream", leg="backend", backend=self.identity.address, peer=str(pair.sender),
            local=str(pair.recipient), layer=ending.layer.value, cause=ending.cause.value, detail=ending.detail, **more,
        )
