"""A peer on plain sockets that the gateway connects to. It keeps what it receives, and does only what a test tells it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab
from tests.lab.peer import SASL, TLS, PeerError, Stream, header, is_barrier, server_context

_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
EXTERNAL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
_numbers = itertools.count(1)


class Receiver:
    """Listen at `port` as `domain`, with one thread for each connection, until `close`.

    `stanzas` are the elements received on authenticated streams, without the gateway's own pings, which are not answered (R41).
    `said` is every top-level element received before authentication, on any stream.
    """

    def __init__(
        self, lab: Lab, domain: str, certificate: Certificate, anchors: str | None = None, *, external: bool = True,
        answers: Callable[[Stream, ET.Element], None] | None = None, port: int = 0, opens: Callable[[], None] | None = None,
        reads: Callable[[], object] | None = None,
    ) -> None:
        """`opens` and `reads` may block: `opens` before a connection is answered, `reads` before stanzas are read."""
        self.domain = domain
        self.port = port or lab.port()
        self.stanzas: list[ET.Element] = []
        self.said: list[str] = []
        self.connections = 0
        self._external, self._answers, self._opens, self._reads = external, answers, opens, reads
        self._context: ssl.SSLContext = server_context(certificate, anchors)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                if self._opens is not None:
                    self._opens()
                threading.Thread(target=self._converse, args=(Stream(connection),), daemon=True).start()

    def _converse(self, stream: Stream) -> None:
        try:
            with contextlib.suppress(PeerError, OSError, ET.ParseError):
                self._negotiate(stream)
                if self._reads is not None:
                    self._reads()
                while (element := stream.next(600.0)) is not None:
                    self._heard(stream, element)
                stream.send("</stream:stream>")
        finally:
            stream.close()

    def _heard(self, stream: Stream, element: ET.Element) -> None:
        if is_barrier(element):
            return
        self.stanzas.append(element)
        if self._answers is not None:
            self._answers(stream, element)

    def _open(self, stream: Stream, features: str) -> None:
        peer = stream.wait_header().get("from")
        text = header(peer, self.domain).decode().removesuffix(">") + f" id='receiver{next(_numbers)}'>"
        stream.send(f"{text}<stream:features>{features}</stream:features>")

    def _hears(self, stream: Stream, *tags: str) -> None:
        element = stream.next()
        if element is None:
            raise PeerError("the stream ended")
        self.said.append(element.tag)
        if element.tag not in tags:
            raise PeerError(f"{element.tag} came")

    def _negotiate(self, stream: Stream) -> None:
        self._open(stream, _STARTTLS)
        self._hears(stream, f"{TLS}starttls")
        stream.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        stream.secure(self._context, None)
        self._authenticate(stream)

    def _authenticate(self, stream: Stream) -> None:
        """Negotiate from the header after TLS to the authenticated stream."""
        self._open(stream, EXTERNAL if self._external else "")
        self._hears(stream, f"{SASL}auth")
        stream.restart()
        stream.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        self._open(stream, "")

    def wait(self, count: int, seconds: float = 10.0) -> list[ET.Element]:
        """Wait until `count` stanzas have arrived; return them."""
        deadline = time.monotonic() + seconds
        while len(self.stanzas) < count:
            if time.monotonic() > deadline:
                raise PeerError(f"{self.domain}: {len(self.stanzas)} of {count} stanzas arrived")
            time.sleep(0.02)
        return self.stanzas

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


