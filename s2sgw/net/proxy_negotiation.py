"""The common part of SOCKS and HTTP CONNECT: ask a proxy for a connection, then hand the transport over."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from s2sgw.net.dialing import Build, DialFailed
from s2sgw.net.handover import HandoverProtocol, RelayedAddress, RelayedTransport
from s2sgw.xmpp.ending import Cause, Ending
from s2sgw.xmpp.host_port import HostPort
from s2sgw.xmpp.timer import cancel


class ProxyNegotiation(HandoverProtocol):
    """One conversation with a proxy, until it has connected us to `place` or refuses.

    A subclass sends its request in `connectionMade` and reads `data` in `answered`, which is called when more has come. It
    ends with `established` or `fail`.
    """

    kind: ClassVar[str]

    def __init__(self, reactor: Any, place: HostPort, build: Build) -> None:
        self._reactor = reactor
        self.place = place
        self._build = build
        self.data = b""
        self._result: Deferred[None] = Deferred(self._cancelled)
        self._attempt: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None
        self.over = False

    def begin(self, attempt: Deferred[None], proxy: HostPort, timeout: float) -> Deferred[None]:
        """Return a Deferred that fires when the transport is handed over. `attempt` connects to `proxy`; `timeout` is in seconds.

        It fails with `DialFailed`. Cancelling it closes the connection.
        """
        self._attempt = attempt
        self._deadline = self._reactor.callLater(timeout, self.fail, Cause.CONNECTION_TIMEOUT, "no answer in time")
        attempt.addErrback(self._no_proxy, proxy)
        return self._result

    def answered(self) -> None:
        """Read `data`. Called again when more has come."""
        raise TypeError(f"{type(self).__name__} reads no answer")

    def prefaceReceived(self, data: bytes) -> None:
        if not self.over:
            self.data += data
            self.answered()

    def prefaceLost(self, reason: Failure) -> None:
        self.fail(Cause.UNREACHABLE, "it closed the connection")

    def take(self, count: int) -> bytes:
        """Return the first `count` bytes of `data`, and remove them."""
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def established(self) -> None:
        """Hand the transport over, with the rest of `data`: the proxy has connected us."""
        inner = self._build()
        if inner is None:
            self.fail(Cause.CLOSED, "no longer wanted")
            return
        self._finish()
        peer = RelayedAddress(self.place.host, self.place.port)
        self.hand_over(inner, RelayedTransport(self.transport, peer, self.transport.getHost()), self.data)
        self._result.callback(None)

    def fail(self, cause: Cause, why: str) -> None:
        """End the attempt, and close the connection."""
        if not self.over:
            self._finish()
            self._close()
            ending = Ending(cause, f"{self.place} by way of the {self.kind} proxy: {why}", "network")
            self._result.errback(DialFailed(ending, self.place.host))

    def _no_proxy(self, failure: Failure, proxy: HostPort) -> None:
        words = failure.value.ending.detail if isinstance(failure.value, DialFailed) else failure.getErrorMessage()
        self.fail(Cause.UNREACHABLE, f"it cannot be reached at {proxy} ({words})")

    def _cancelled(self, result: Deferred[None]) -> None:
        self._finish()
        self._close()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()
        elif self._attempt is not None:
            self._attempt.cancel()

    def _finish(self) -> None:
        self.over = True
        cancel(self._deadline)
