"""A federation peer on plain sockets. It sends exactly what a test tells it to, and shows exactly what it receives.

It blocks, so use it in threads (`asyncio.to_thread`). Every wait is bounded.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from tests.lab.certificates import Certificate

STREAMS = "{http://etherx.jabber.org/streams}"
TLS = "{urn:ietf:params:xml:ns:xmpp-tls}"
SASL = "{urn:ietf:params:xml:ns:xmpp-sasl}"
DIALBACK = "{jabber:server:dialback}"
SERVER = "{jabber:server}"
_ERRORS = "{urn:ietf:params:xml:ns:xmpp-streams}"
STARTTLS = b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"
WAIT = 8.0
#: The number of the last received bytes that are kept.
HEARD = 262_144


class PeerError(Exception):
    """Raised when the other side sent something unexpected."""


def header(to: str | None, from_: str | None, version: str | None = "1.0", namespace: str = "jabber:server") -> bytes:
    """Return a stream header; None leaves an attribute out."""
    given = (("to", to), ("from", from_), ("version", version))
    attributes = "".join(f" {name}='{value}'" for name, value in given if value is not None)
    return (
        f"<?xml version='1.0'?><stream:stream xmlns='{namespace}' xmlns:db='jabber:server:dialback' "
        f"xmlns:stream='http://etherx.jabber.org/streams'{attributes}>"
    ).encode()


def client_context(certificate: Certificate | None, *, maximum: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a TLS context of an initiating server that presents `certificate` and verifies no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if maximum is not None:
        context.maximum_version = maximum
    if certificate is not None:
        context.load_cert_chain(certificate.chain, certificate.key)
    return context


def server_context(certificate: Certificate, anchors: str | None = None) -> ssl.SSLContext:
    """Return a TLS context of a receiving server. With `anchors` it requires a certificate from there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    if anchors:
        context.load_verify_locations(anchors)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Stream:
    """One TCP connection and the XML stream on it, in either role."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = b""  # since the last restart
        self.header: dict[str, str] = {}
        self.restart()

    @classmethod
    def dial(cls, port: int, address: str = "127.0.0.1") -> Stream:
        return cls(socket.create_connection((address, port), WAIT))

    def restart(self) -> None:
        """Expect a new XML stream on the same connection."""
        self._parser: Any = ET.XMLPullParser(("start", "end"))
        self._depth = 0
        self._waiting: list[ET.Element] = []
        self.heard, self.header, self.closed, self.lost = b"", {}, False, False

    def send(self, data: bytes | str) -> None:
        self._socket.sendall(data.encode() if isinstance(data, str) else data)

    # --- receiving -------------------------------------------------------------------------------------------------

    def _hear(self, deadline: float) -> None:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise PeerError(f"no more data came in time; received so far: {self.heard[-400:]!r}") from None
        except OSError:
            data = b""
        if not data:
            self.lost = True
            return
        self.heard = (self.heard + data)[-HEARD:]
        self._parser.feed(data)
        for event, element in self._parser.read_events():
            self._seen(event, element)

    def _seen(self, event: str, element: ET.Element) -> None:
        if event == "start":
            self._depth += 1
            if self._depth == 1:
                self.header = {"tag": element.tag, **element.attrib}
            return
        self._depth -= 1
        self.closed = self.closed or self._depth == 0
        if self._depth == 1:
            self._waiting.append(element)

    def wait_header(self, seconds: float = WAIT) -> dict[str, str]:
        """Wait for the other side's stream header; return its attributes."""
        deadline = time.monotonic() + seconds
        while not self.header:
            if self.lost:
                raise PeerError("the connection closed before a stream header")
            self._hear(deadline)
        return self.header

    def next(self, seconds: float = WAIT) -> ET.Element | None:
        """Return the next element, or None if the stream or the connection was closed."""
        deadline = time.monotonic() + seconds
        while not self._waiting:
            if self.closed or self.lost:
                return None
            self._hear(deadline)
        return self._waiting.pop(0)

    def expect(self, *tags: str, seconds: float = WAIT) -> ET.Element:
        """Return the next element, which must have one of `tags`."""
        element = self.next(seconds)
        if element is None or element.tag not in tags:
            seen = "the end" if element is None else ET.tostring(element, "unicode")
            raise PeerError(f"expected {' or '.join(tags)}, received {seen}")
        return element

    def end(self, seconds: float = WAIT) -> tuple[str, str]:
        """Read to the end of the connection; return condition and text of the stream error, or ("", "")."""
        condition, text = "", ""
        while (element := self.next(seconds)) is not None:
            if element.tag == f"{STREAMS}error":
                condition, text = stream_error(element)
        deadline = time.monotonic() + seconds
        while not self.lost:
            self._hear(deadline)
        return condition, text

    # --- negotiation ---------------------------------------------------------------------------------------------

    def open(self, to: str | None, from_: str | None, version: str | None = "1.0") -> ET.Element:
        """Send a header; return the features in the answer."""
        self.restart()
        self.send(header(to, from_, version))
        return self.expect(f"{STREAMS}features")

    def starttls(self, context: ssl.SSLContext, name: str) -> None:
        self.send(STARTTLS)
        self.expect(f"{TLS}proceed")
        self.secure(context, name)

    def secure(self, context: ssl.SSLContext, name: str | None, session: Any = None) -> None:
        """Do the TLS handshake, as client if `name` is given. `session`: a session to resume."""
        self._socket.settimeout(WAIT)
        secured = context.wrap_socket(self._socket, server_side=name is None, server_hostname=name, session=session)
        self._socket = self._secured = secured
        self.restart()

    def carry(self, connection: Any) -> None:
        """Continue over another connection."""
        self._socket = connection
        self.restart()

    @property
    def session(self) -> Any:
        """Return the TLS session, for `secure` on another connection."""
        return self._secured.session

    @property
    def reused(self) -> bool:
        """Return whether the TLS session was resumed."""
        return bool(self._secured.session_reused)

    def external(self, authzid: str | None) -> ET.Element:
        """Authenticate by SASL EXTERNAL with an authorization identity ("=" if None); return `<success/>` or `<failure/>`."""
        identity = "=" if authzid is None else base64.b64encode(authzid.encode()).decode()
        self.send(f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>{identity}</auth>")
        return self.expect(f"{SASL}success", f"{SASL}failure")

    def close(self) -> None:
        self._socket.close()

    @property
    def raw(self) -> socket.socket:
        return self._socket


def stream_error(element: ET.Element) -> tuple[str, str]:
    """Return condition and text of `<stream:error/>`."""
    names = [child.tag.removeprefix(_ERRORS) for child in element if child.tag.startswith(_ERRORS)]
    return next((name for name in names if name != "text"), ""), element.findtext(f"{_ERRORS}text") or ""


def mechanisms(features: ET.Element) -> list[str]:
    return [found.text or "" for found in features.iter(f"{SASL}mechanism")]


def is_barrier(element: ET.Element) -> bool:
    """Return whether this is the gateway's own ping after a batch (R41)."""
    return (
        element.tag == f"{SERVER}iq" and element.get("type") == "get" and element.get("id", "").startswith("s2sgw-")
        and element.find("{urn:xmpp:ping}ping") is not None
    )


def offers_starttls(features: ET.Element) -> bool:
    return features.find(f"{TLS}starttls") is not None


def federate(port: int, to: str, from_: str, certificate: Certificate | None) -> tuple[Stream, ET.Element]:
    """Negotiate TLS; return the stream and the features after it."""
    stream = Stream.dial(port)
    stream.open(to, from_)
    stream.starttls(client_context(certificate), to)
    return stream, stream.open(to, from_)


def authenticated(port: int, to: str, from_: str, certificate: Certificate) -> Stream:
    """Return a stream that is authenticated by EXTERNAL."""
    stream, features = federate(port, to, from_, certificate)
    if "EXTERNAL" not in mechanisms(features):
        raise PeerError(f"EXTERNAL is not offered: {ET.tostring(features, 'unicode')}")
    answer = stream.external(from_)
    if answer.tag != f"{SASL}success":
        raise PeerError(f"EXTERNAL failed: {ET.tostring(answer, 'unicode')}")
    stream.open(to, from_)
    return stream


def names_of(elements: Sequence[ET.Element]) -> list[str]:
    return [element.tag for element in elements]
