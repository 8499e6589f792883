"""A `Receiver` on other transports: IPv6, direct TLS, features after authentication. It records its callers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from tests.lab.certificates import Certificate
from tests.lab.lab import Lab
from tests.lab.peer import Stream
from tests.lab.receiver import Receiver


class Far(Receiver):
    """A `Receiver` on 127.0.0.1 and, if `six` is true, on ::1 too.

    `direct`: TLS from the first byte. `after`: the features of the authenticated stream.
    """

    def __init__(
        self, lab: Lab, domain: str, certificate: Certificate, anchors: str | None = None, *, six: bool = False,
        direct: bool = False, after: str = "", port: int = 0,
    ) -> None:
        super().__init__(lab, domain, certificate, anchors, port=port)
        #: addresses of the callers; requested TLS names: (SNI, ALPN)
        self.callers: list[str] = []
        self.asked: list[tuple[str | None, str | None]] = []
        self._direct, self._after = direct, after
        self._names: list[str | None] = []
        self._context.set_alpn_protocols(["xmpp-server"])
        self._context.sni_callback = lambda _socket, name, _context: self._names.append(name)
        self._six: socket.socket | None = None
        if six:
            self._six = socket.create_server(("::1", self.port), family=socket.AF_INET6, backlog=16)
            threading.Thread(target=self._serve_six, args=(self._six,), daemon=True).start()

    def _serve_six(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._converse, args=(Stream(connection),), daemon=True).start()

    def _converse(self, stream: Stream) -> None:
        self.callers.append(stream.raw.getpeername()[0])
        super()._converse(stream)

    def _negotiate(self, stream: Stream) -> None:
        if not self._direct:
            super()._negotiate(stream)
            return
        stream.secure(self._context, None)
        assert isinstance(stream.raw, ssl.SSLSocket)
        self.asked.append((self._names[-1] if self._names else None, stream.raw.selected_alpn_protocol()))
        self._authenticate(stream)

    def _open(self, stream: Stream, features: str) -> None:
        super()._open(stream, features or self._after)

    def close(self) -> None:
        super().close()
        if self._six is not None:
            with contextlib.suppress(OSError):
                self._six.shutdown(socket.SHUT_RDWR)
            self._six.close()
