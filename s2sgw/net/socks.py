"""Outbound connections through a SOCKS5 proxy (RFC 1928, RFC 1929).

Names go to the proxy unchanged. They are not resolved here, so no DNS query reveals an .onion domain or a peer.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from s2sgw.net.dialing import Build, ConnectionAttempt
from s2sgw.net.proxy_negotiation import ProxyNegotiation
from s2sgw.xmpp.ending import Cause
from s2sgw.xmpp.host_port import HostPort

#: Seconds in which the proxy must connect us. It may have to build a circuit.
SOCKS_TIMEOUT = 30.0

_VERSION = 5
_NO_AUTHENTICATION, _PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4

#: RFC 1928 §6: the meaning of the proxy's refusals.
_REPLIES = {
    1: (Cause.UNREACHABLE, "general failure"), 2: (Cause.UNREACHABLE, "not allowed by its rules"),
    3: (Cause.UNREACHABLE, "network unreachable"), 4: (Cause.UNREACHABLE, "host unreachable"),
    5: (Cause.CONNECTION_REFUSED, "connection refused"), 6: (Cause.CONNECTION_TIMEOUT, "time to live expired"),
    7: (Cause.UNREACHABLE, "it does not support CONNECT"), 8: (Cause.UNREACHABLE, "it does not support this address type"),
}  # fmt: skip


class SocksDialler:
    """Connects to names and addresses through the proxy at `proxy`, an IP address.

    With `user` and `password` it logs in to the proxy. Tor keeps streams of different users on different circuits.
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
        attempt = ConnectionAttempt(self._reactor, self._proxy.host, self._proxy.port, lambda: negotiation).start(self._timeout)
        return negotiation.begin(attempt, self._proxy, self._timeout)


def login(user: str, password: str) -> bytes:
    """Return the login of RFC 1929 §2. Raises `ValueError` for a user or password that is too long."""
    fields = [field.encode("utf-8") for field in (user, password)]
    if any(not 1 <= len(field) <= 255 for field in fields):
        raise ValueError("the user and the password of a SOCKS proxy have 1 to 255 bytes each")
    return b"\x01" + b"".join(bytes((len(field),)) + field for field in fields)


def request(place: HostPort) -> bytes:
    """Return the CONNECT request for `place` (RFC 1928 §4): an address as its bytes, a name unchanged."""
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


class _Negotiation(ProxyNegotiation):
    """One conversation with a SOCKS proxy: greeting, perhaps a login, the request."""

    kind = "SOCKS"

    def __init__(self, reactor: Any, place: HostPort, login: bytes, build: Build) -> None:
        super().__init__(reactor, place, build)
        self._login = login
        self._request = request(place)
        self._expect: Callable[[], None] = self._greeted

    def connectionMade(self) -> None:
        self.transport.write(bytes((_VERSION, 1, _PASSWORD if self._login else _NO_AUTHENTICATION)))

    def answered(self) -> None:
        self._expect()

    # --- the conversation; each step is called again when more input has come ----------------------------------------

    def _greeted(self) -> None:
        if len(self.data) < 2:
            return
        version, method = self.take(2)
        if version != _VERSION or method != (_PASSWORD if self._login else _NO_AUTHENTICATION):
            self.fail(Cause.UNREACHABLE, "it is not a SOCKS5 proxy, or requires another way to log in")
        elif self._login:
            self._say(self._login, self._logged_in)
        else:
            self._say(self._request, self._replied)

    def _logged_in(self) -> None:
        if len(self.data) < 2:
            return
        _version, status = self.take(2)
        if status:
            self.fail(Cause.UNREACHABLE, "it refuses the user or password")
        else:
            self._say(self._request, self._replied)

    def _replied(self) -> None:
        """Read VER REP RSV ATYP BND.ADDR BND.PORT. The bound address is not used."""
        if len(self.data) < 5:
            return
        version, reply, _reserved, kind, first = self.data[:5]
        length = {_IPV4: 10, _IPV6: 22, _NAME: 7 + first}.get(kind)
        if version != _VERSION or length is None:
            self.fail(Cause.UNREACHABLE, "its answer is malformed")
        elif reply:
            self.fail(*_REPLIES.get(reply, (Cause.UNREACHABLE, f"failure {reply}")))
        elif len(self.data) >= length:
            self.take(length)
            self.established()

    def _say(self, data: bytes, expect: Callable[[], None]) -> None:
        self._expect = expect
        self.transport.write(data)
        expect()
