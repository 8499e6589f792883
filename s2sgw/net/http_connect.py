"""Outbound connections through an HTTP proxy by CONNECT (RFC 9110 §9.3.6), with Basic authentication (RFC 7617)."""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.net.dialing import Build, ConnectionAttempt
from s2sgw.net.proxy_negotiation import ProxyNegotiation
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.host_port import HostPort

#: Seconds in which the proxy must connect us.
CONNECT_TIMEOUT = 30.0
#: Bytes of the proxy's answer, up to the blank line.
HEAD_BYTES = 8192

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_END = re.compile(rb"\r?\n\r?\n")


class HTTPConnectDialler:
    """Connects to names and addresses through the HTTP proxy at `proxy`, an IP address.

    With `user` and `password` the request carries Basic authentication. Raises `ValueError` for a colon in the user
    (RFC 7617 §2) and for control characters.
    """

    def __init__(
        self, reactor: Any, proxy: HostPort, *, user: str = "", password: str = "", timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        ipaddress.ip_address(proxy.host)
        self._reactor = reactor
        self._proxy = proxy
        self._credentials = credentials(user, password) if user else b""
        self._timeout = timeout

    def __call__(self, address: str, port: int, build: Build) -> Deferred[None]:
        negotiation = _Negotiation(self._reactor, HostPort(address, port), self._credentials, build)
        attempt = ConnectionAttempt(self._reactor, self._proxy.host, self._proxy.port, lambda: negotiation).start(self._timeout)
        return negotiation.begin(attempt, self._proxy, self._timeout)


def credentials(user: str, password: str) -> bytes:
    """Return the value of `Proxy-Authorization` (RFC 7617 §2)."""
    if ":" in user or any(ord(character) < 32 or ord(character) == 127 for character in user + password):
        raise ValueError("the user of an HTTP proxy has no colon, and neither it nor the password has control characters")
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def request(place: HostPort, authorization: bytes) -> bytes:
    """Return the CONNECT request for `place`. A name goes to the proxy unchanged, an IPv6 address in brackets."""
    host = place.host.removesuffix(".")
    authority = (f"[{host}]" if ":" in host else host).encode("ascii") + b":%d" % place.port
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if authorization:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join([*lines, b"", b""])


class _Negotiation(ProxyNegotiation):
    """One request to an HTTP proxy."""

    kind = "HTTP"

    def __init__(self, reactor: Any, place: HostPort, authorization: bytes, build: Build) -> None:
        super().__init__(reactor, place, build)
        self._request = request(place, authorization)

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def answered(self) -> None:
        """Read up to the blank line. The rest belongs to the stream."""
        end = _END.search(self.data, 0, HEAD_BYTES + 4)
        if end is None:
            if len(self.data) >= HEAD_BYTES:
                self.fail(Cause.UNREACHABLE, f"the head of its answer has more than {HEAD_BYTES} bytes")
            return
        status = _STATUS.match(self.take(end.end()))
        if status is None:
            self.fail(Cause.UNREACHABLE, "its answer is not HTTP/1.0 or HTTP/1.1")
        elif status[1].startswith(b"2"):
            self.established()
        else:
            self.fail(*_refusal(int(status[1])))


def _refusal(status: int) -> tuple[Cause, str]:
    """Return the cause and the text for a status that is not a success (RFC 9110 §15)."""
    if status == 407:
        return Cause.UNREACHABLE, "it rejects the user and password, or requires them (status 407)"
    if status == 504:
        return Cause.CONNECTION_TIMEOUT, "it got no answer in time (status 504)"
    if status in (403, 405):
        return Cause.UNREACHABLE, f"its rules do not allow this connection (status {status})"
    return Cause.UNREACHABLE, f"it answers with status {status}"
