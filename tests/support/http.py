"""An HTTP client in memory: requests to a `BoundedSite` without sockets."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from s2sgw.net.http_server import BoundedSite


class Response(NamedTuple):
    """One response, as far as it has arrived."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode()


class Transport(StringTransport):
    """A transport that tells its protocol when it is cut."""

    protocol: Any = None
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.loseConnection()


class Client:
    """A client that opens connections to a site from `address`, and sends requests."""

    def __init__(self, site: BoundedSite, clock: Clock, address: str = "127.0.0.1", host: str = "localhost:8269") -> None:
        self.site = site
        self.clock = clock
        self.address = address
        self.host = host
        self.headers: dict[str, str] = {}

    def connect(self) -> tuple[Any, Transport]:
        """Return a new connection and its transport. The protocol is None if the site refuses it."""
        protocol = self.site.buildProtocol(IPv4Address("TCP", self.address, 40000))
        transport = Transport(peerAddress=IPv4Address("TCP", self.address, 40000))
        if protocol is not None:
            transport.protocol = protocol
            protocol.makeConnection(transport)
        return protocol, transport

    def send(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> tuple[Any, Transport]:
        """Send a request on a separate connection."""
        protocol, transport = self.connect()
        lines = {"Host": self.host, **self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body or method == "POST":
            lines["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        protocol.dataReceived(head.encode() + b"\r\n" + body)
        return protocol, transport

    def ask(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> Response:
        """Send a request and return the response."""
        protocol, transport = self.send(method, path, body, **headers)
        for _ in range(50):
            self.clock.advance(0)
        response = parse(transport.value())
        if not transport.aborted:
            protocol.connectionLost()
        return response

    def get(self, path: str, **headers: str) -> Response:
        """Send a GET request and return the response."""
        return self.ask("GET", path, **headers)

    def post(self, path: str, value: object = None, **headers: str) -> Response:
        """Send a POST request with a JSON body and return the response."""
        body = b"" if value is None else json.dumps(value).encode()
        headers.setdefault("Content_Type", "application/json")
        return self.ask("POST", path, body, **headers)


def parse(data: bytes) -> Response:
    """Return the response in `data`; its status is 0 if it is not complete yet."""
    head, _, body = data.partition(b"\r\n\r\n")
    if not head:
        return Response(0, {}, b"")
    first, *lines = head.decode().split("\r\n")
    headers = dict[str, str]()
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    return Response(int(first.split()[1]), headers, body)


def _joined(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + data[:length], data[length + 2 :]
    return body
