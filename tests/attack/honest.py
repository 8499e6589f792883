"""`python -m tests.attack.honest FILE`: an honest peer in a separate process, whose traffic is measured while others attack.

It sends messages at a steady pace on its own stream. The gateway's echo backend returns each one on a stream that the
gateway opens. It writes one JSON line to standard output for each message that it sends (its number, and its delay in milliseconds),
and one for each that returns (its number, and the milliseconds that it took).
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from tests.lab.certificates import Certificate
from tests.lab.peer import (
    SASL,
    SERVER,
    TLS,
    PeerError,
    Stream,
    client_context,
    header,
    is_barrier,
    mechanisms,
    server_context,
)

_STARTTLS = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
_EXTERNAL = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
#: Seconds for a step of a negotiation: an attack may slow it down, and the scenario has the limit.
PATIENCE = 30.0


@dataclass(frozen=True)
class Plan:
    """The peer, the address of the gateway, and the rate of sending."""

    domain: str
    local: str
    gateway: int
    own: int
    source: str
    chain: str
    key: str
    per_second: float

    @property
    def certificate(self) -> Certificate:
        return Certificate(Path(self.chain), Path(self.key))


def connect(port: int, source: str, local: str, domain: str, certificate: Certificate, seconds: float = PATIENCE) -> Stream:
    """Return a stream of `domain` from the address `source`, authenticated by EXTERNAL. Raises `PeerError` or `OSError`."""
    stream = Stream(socket.create_connection(("127.0.0.1", port), seconds, (source, 0)))
    try:
        stream.open(local, domain)
        stream.starttls(client_context(certificate), local)
        features = stream.open(local, domain)
        if "EXTERNAL" not in mechanisms(features):
            raise PeerError(f"EXTERNAL is not offered: {ET.tostring(features, 'unicode')}")
        if stream.external(domain).tag != f"{SASL}success":
            raise PeerError("EXTERNAL failed")
        stream.open(local, domain)
    except BaseException:
        stream.close()
        raise
    return stream


class HonestPeer:
    """A peer that sends and receives. It uses threads, because every stream blocks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._listener = socket.create_server(("127.0.0.1", plan.own), backlog=16)
        self._context = server_context(plan.certificate)
        self._out = threading.Lock()
        self._stream: Stream | None = None

    def run(self) -> None:
        """Send forever."""
        threading.Thread(target=self._serve, daemon=True).start()
        number, due, late = 0, time.monotonic(), 0.0
        while True:
            number += 1
            self._send(f"<message from='h@{self._plan.domain}' to='echo@{self._plan.local}'>"
                       f"<body>{number} {time.monotonic()}</body></message>")
            _say({"sent": number, "late": late})
            due += 1 / self._plan.per_second
            time.sleep(max(0.0, due - time.monotonic()))
            late = (time.monotonic() - due) * 1000

    def _send(self, text: str) -> None:
        with self._out:
            if self._stream is None:
                plan = self._plan
                self._stream = connect(plan.gateway, plan.source, plan.local, plan.domain, plan.certificate)
            self._stream.send(text)

    # --- returning messages ---

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._converse, args=(Stream(connection),), daemon=True).start()

    def _converse(self, stream: Stream) -> None:
        with contextlib.suppress(OSError, ET.ParseError), contextlib.closing(stream):
            try:
                self._negotiate(stream)
                while (element := stream.next(600.0)) is not None:
                    self._heard(element)
                stream.send("</stream:stream>")
            except PeerError as problem:
                _say({"problem": str(problem)})

    def _negotiate(self, stream: Stream) -> None:
        self._open(stream, _STARTTLS)
        stream.expect(f"{TLS}starttls", seconds=PATIENCE)
        stream.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
        stream.secure(self._context, None)
        self._open(stream, _EXTERNAL)
        stream.expect(f"{SASL}auth", seconds=PATIENCE)
        stream.send("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
        stream.restart()
        self._open(stream, "")

    def _open(self, stream: Stream, features: str) -> None:
        peer = stream.wait_header(PATIENCE).get("from")
        text = header(peer, self._plan.domain).decode().removesuffix(">") + f" id='h{time.monotonic_ns()}'>"
        stream.send(f"{text}<stream:features>{features}</stream:features>")

    def _heard(self, element: ET.Element) -> None:
        if is_barrier(element):
            names = f"from='{element.get('to')}' to='{element.get('from')}'"
            self._send(f"<iq type='result' id='{element.get('id')}' {names}/>")
        elif element.tag == f"{SERVER}message":
            number, at = (element.findtext(f"{SERVER}body") or "0 0").split()
            _say({"came": int(number), "ms": (time.monotonic() - float(at)) * 1000, "type": element.get("type", "")})


_SAYING = threading.Lock()


def _say(row: dict[str, object]) -> None:
    with _SAYING:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    HonestPeer(Plan(**json.loads(Path(sys.argv[1]).read_text()))).run()
