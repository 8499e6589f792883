"""Outbound connections through a SOCKS5 proxy (RFC 1928, RFC 1929). Names go to the proxy as they are: nothing is resolved here,
so that no DNS query tells of an .onion domain or of whom we talk to."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from s2sgw.net.addresses import HostPort
from s2sgw.net.dialing import Attempt, Build, DialFailed
from s2sgw.net.handover import HandoverProtocol, RelayedAddress, RelayedTransport
from s2sgw.xmpp.ending import Cause, Ending

#: Seconds for the proxy to connect us: a circuit may have to be built.
SOCKS_TIMEOUT = 30.0

_VERSION = 5
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4

#: RFC 1928 §6: what the proxy's refusals mean.
_REPLIES = {
    1: (Cause.UNREACHABLE, "general failure"), 2: (Cause.UNREACHABLE, "not allowed by its rules"),
    3: (Cause.UNREACHABLE, "network unreachable"), 4: (Cause.UNREACHABLE, "host unreachable"),
    5: (Cause.CONNECTION_REFUSED, "connection refused"), 6: (Cause.CONNECTION_TIMEOUT, "time to live expired"),
    7: (Cause.UNREACHABLE, "it knows no CONNECT"), 8: (Cause.UNREACHABLE, "it knows no such address type"),
}  # fmt: skip


class SocksDialler:
    """Dials names and addresses through the proxy at `proxy`, an IP address.

    With `user` and `password` the proxy is logged in to; Tor keeps streams of different users on different circuits.
    """

    def __init__(
        self, reactor: Any, proxy: HostPort, *, user: str = "", password: str = "", timeout: float = SOCKS_TIMEOUT,
    ) -> None:
        ipaddress.ip_address(proxy.host)
        self._reactor = reactor
        self._proxy = proxy
        self._login = login(user, password) if user else b""
        self._timeout = timeout

    def __call__(self, address: str, port: int, build: Build) -> Deferred[None]:
        negotiation = _Negotiation(self._reactor, HostPort(address, port), self._login, build)
        attempt = Attempt(self._reactor, self._proxy.host, self._proxy.port, lambda: negotiation).start(self._timeout)
        return negotiation.begin(attempt, self._proxy, self._timeout)


def login(user: str, password: str) -> bytes:
    """RFC 1929 §2; raises `ValueError` for what is longer than it can carry."""
    fields = [field.encode("utf-8") for field in (user, password)]
    if any(not 1 <= len(field) <= 255 for field in fields):
        raise ValueError("the user and the password of a SOCKS proxy have 1 to 255 bytes each")
    return b"\x01" + b"".join(bytes((len(field),)) + field for field in fields)


def request(place: HostPort) -> bytes:
    """CONNECT to `place` (RFC 1928 §4): an address as its bytes, a name as itself."""
    try:
        address = ipaddress.ip_address(place.host)
    except ValueError:
        name = place.host.removesuffix(".").encode("ascii")
        if not 1 <= len(name) <= 255:
            raise ValueError("a name for a SOCKS proxy has 1 to 255 bytes") from None
        target = bytes((_NAME, len(name))) + name
    else:
        target = bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
    return bytes((_VERSION, 1, 0)) + target + struct.pack("!H", place.port)


class _Negotiation(HandoverProtocol):
    """One conversation with the proxy: greeting, perhaps a login, the request. Then the transport is handed over."""

    def __init__(self, reactor: Any, place: HostPort, login: bytes, build: Build) -> None:
        self._reactor = reactor
        self._place = place
        self._login = login
        self._request = request(place)
        self._build = build
        self._data = b""
        self._expect: Callable[[], None] = self._greeted
        self._result: Deferred[None] = Deferred(self._cancelled)
        self._attempt: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None
        self._over = False

    def begin(self, attempt: Deferred[None], proxy: HostPort, timeout: float) -> Deferred[None]:
        self._attempt = attempt
        self._deadline = self._reactor.callLater(timeout, self._fail, Cause.CONNECTION_TIMEOUT, "no answer in time")
        attempt.addErrback(self._no_proxy, proxy)
        return self._result

    def connectionMade(self) -> None:
        self.transport.write(bytes((_VERSION, 1, _PASSWORD if self._login else _NO_AUTHENTICATION)))

    def prefaceReceived(self, data: bytes) -> None:
        if not self._over:
            self._data += data
            self._expect()

    def prefaceLost(self, reason: Failure) -> None:
        self._fail(Cause.UNREACHABLE, "it closed the connection")

    # --- the conversation, each step called again when more has come -------------------------------------------------

    def _greeted(self) -> None:
        if len(self._data) < 2:
            return
        version, method = self._take(2)
        if version != _VERSION or method != (_PASSWORD if self._login else _NO_AUTHENTICATION):
            self._fail(Cause.UNREACHABLE, "it is no SOCKS5 proxy, or asks for another way to log in")
        elif self._login:
            self._say(self._login, self._logged_in)
        else:
            self._say(self._request, self._answered)

    def _logged_in(self) -> None:
        if len(self._data) < 2:
            return
        _version, status = self._take(2)
        if status:
            self._fail(Cause.UNREACHABLE, "it refuses the user or password")
        else:
            self._say(self._request, self._answered)

    def _answered(self) -> None:
        """VER REP RSV ATYP BND.ADDR BND.PORT, the bound address being of no interest."""
        if len(self._data) < 5:
            return
        version, reply, _reserved, kind, first = self._data[:5]
        length = {_IPV4: 10, _IPV6: 22, _NAME: 7 + first}.get(kind)
        if version != _VERSION or length is None:
            self._fail(Cause.UNREACHABLE, "its answer is malformed")
        elif reply:
            self._fail(*_REPLIES.get(reply, (Cause.UNREACHABLE, f"failure {reply}")))
        elif len(self._data) >= length:
            self._take(length)
            self._connected()

    def _say(self, data: bytes, expect: Callable[[], None]) -> None:
        self._expect = expect
        self.transport.write(data)
        expect()

    def _take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    # --- its end -----------------------------------------------------------------------------------------------------

    def _connected(self) -> None:
        inner = self._build()
        if inner is None:
            self._fail(Cause.CLOSED, "no longer wanted")
            return
        self._finish()
        peer = RelayedAddress(self._place.host, self._place.port)
        self.hand_over(inner, RelayedTransport(self.transport, peer, self.transport.getHost()), self._data)
        self._result.callback(None)

    def _fail(self, cause: Cause, why: str) -> None:
        if not self._over:
            self._finish()
            self._close()
            ending = Ending(cause, f"{self._place} by way of the SOCKS proxy: {why}", "network")
            self._result.errback(DialFailed(ending, self._place.host))

    def _no_proxy(self, failure: Failure, proxy: HostPort) -> None:
        words = failure.value.ending.detail if isinstance(failure.value, DialFailed) else failure.getErrorMessage()
        self._fail(Cause.UNREACHABLE, f"it cannot be reached at {proxy} ({words})")

    def _cancelled(self, result: Deferred[None]) -> None:
        self._finish()
        self._close()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.abortConnection()
        elif self._attempt is not None:
            self._attempt.cancel()

    def _finish(self) -> None:
        self._over = True
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
