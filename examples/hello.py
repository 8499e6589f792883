"""A federation peer that says hello through a running gateway, and shows each step in words (`make hello`).

It is a small XMPP server in Python's standard library: sockets, ssl, an XML parser. It shares no code with s2sgw, so it tests
s2sgw independently. It does what any server on the network does:

    It connects to the gateway as peer.example, starts TLS, presents its certificate, authenticates by SASL EXTERNAL, and sends a
    message. Then it waits on its own port until the gateway brings the answer, and verifies the gateway's certificate.
"""

from __future__ import annotations

import argparse
import secrets
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser
from xml.sax.saxutils import escape, quoteattr

CERTIFICATES = Path(__file__).resolve().parent.parent / "certs"
SECONDS = 15.0
PING_SECONDS = 1.0
TLS, SASL = "urn:ietf:params:xml:ns:xmpp-tls", "urn:ietf:params:xml:ns:xmpp-sasl"
MESSAGE, IQ = "{jabber:server}message", "{jabber:server}iq"
STREAMS, STREAM_ERRORS = "http://etherx.jabber.org/streams", "urn:ietf:params:xml:ns:xmpp-streams"


class UnexpectedAnswer(Exception):
    """The gateway did not answer as the protocol requires."""


# --- one XML stream over one socket ------------------------------------------------------------------------------------


class Stream:
    """One XML stream: sends text, and returns the header of the other side and then its elements, one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.restart()

    def restart(self) -> None:
        """Begin a new stream, after TLS and after authentication. All that was parsed before is dropped."""
        self._parser: Any = XMLPullParser(["start", "end"])
        self._depth = 0
        self._read = self._events()

    def send(self, text: str) -> None:
        print(f"     > {text}")
        self.connection.sendall(text.encode())

    def send_header(self, from_: str, to: str, stream_id: str | None = None) -> None:
        named = "" if stream_id is None else f" id={quoteattr(stream_id)}"
        self.send(
            f"<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='{STREAMS}'"
            f" from={quoteattr(from_)} to={quoteattr(to)}{named} version='1.0'>"
        )

    def header(self) -> dict[str, str]:
        """Return the attributes of the other side's stream header."""
        attributes = next(self._read).attrib
        print(f"     < stream header from={attributes.get('from')} to={attributes.get('to')} id={attributes.get('id')}")
        return attributes

    def element(self, *expected: str) -> Element:
        """Return the next element. Raises `UnexpectedAnswer` if it is none of `expected` ({namespace}name)."""
        element = next(self._read)
        print(f"     < {described(element)}")
        if element.tag not in expected:
            names = " or ".join(f"<{name.rpartition('}')[2]}/>" for name in expected)
            raise UnexpectedAnswer(f"expected {names}, got {described(element)}")
        return element

    def close(self) -> None:
        """Send the closing tag, read until the other side's closing tag, and close the connection."""
        self.send("</stream:stream>")
        with suppress(UnexpectedAnswer, OSError, StopIteration):
            while True:
                next(self._read)
        self.connection.close()

    def start_tls(self, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
        """Start TLS, as the server if `server_name` is None, and begin a new stream in it."""
        server = server_name is None
        self.connection = secured = context.wrap_socket(self.connection, server_side=server, server_hostname=server_name)
        self.restart()
        return secured

    def _events(self) -> Iterator[Element]:
        """Yield the header (its element is still open), then each of its children when it is complete."""
        while True:
            for kind, element in self._parser.read_events():
                self._depth += 1 if kind == "start" else -1
                if (kind, self._depth) in (("start", 1), ("end", 1)):
                    yield element
                if (kind, self._depth) == ("end", 0):
                    raise UnexpectedAnswer("the gateway closed the stream")
            data = self.connection.recv(65536)
            if not data:
                raise UnexpectedAnswer("the gateway closed the connection")
            self._parser.feed(data)


def described(element: Element) -> str:
    """Return an element as <name>, with the names of its children and its text."""
    inside = "".join(described(child) for child in element) + escape((element.text or "").strip())
    name = element.tag.rpartition("}")[2]
    return f"<{name}>{inside}</{name}>" if inside else f"<{name}/>"


def step(words: str) -> None:
    print(f"\n{words}")


# --- the peer's two conversations ----------------------------------------------------------------------------------------


class Peer:
    """The server of the domain `name`, with its certificate and the CA that it trusts."""

    def __init__(self, name: str, authority: Path, certificate: Path) -> None:
        self.name = name
        self._authority = authority
        self._certificate = certificate
        #: the id of the message that was sent last, by which its answer is told from others
        self.sent = ""

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """Return a TLS context in which both sides present a certificate and verify that of the other."""
        context = ssl.create_default_context(purpose, cafile=str(self._authority))
        context.load_cert_chain(self._certificate, self._certificate.with_suffix(".key"))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def send_message(self, gateway: tuple[str, int], domain: str, body: str) -> Stream:
        """Connect, authenticate, and send a message to echo@`domain`. The stream stays open."""
        step(f"1. Connecting to the gateway at {gateway[0]}:{gateway[1]}, as {self.name} for {domain}.")
        stream = Stream(socket.create_connection(gateway, SECONDS))
        stream.send_header(self.name, domain)
        stream.header()
        features = stream.element(f"{{{STREAMS}}}features")
        if features.find(f"{{{TLS}}}starttls/{{{TLS}}}required") is None or len(features) != 1:
            raise UnexpectedAnswer("STARTTLS must be required, and must be the only feature before TLS")

        step("2. The gateway requires STARTTLS and offers nothing else. We start TLS.")
        stream.send(f"<starttls xmlns='{TLS}'/>")
        stream.element(f"{{{TLS}}}proceed")
        secured = stream.start_tls(self.context(ssl.Purpose.SERVER_AUTH), domain)
        print(f"     {secured.version()}: the gateway's certificate is valid, by our CA, and names {domain}")

        step(f"3. A new stream inside TLS. Our certificate names {self.name}, so EXTERNAL should be offered.")
        stream.send_header(self.name, domain)
        stream.header()
        features = stream.element(f"{{{STREAMS}}}features")
        if "EXTERNAL" not in [mechanism.text for mechanism in features.iter(f"{{{SASL}}}mechanism")]:
            raise UnexpectedAnswer("EXTERNAL is not offered, so our certificate was not accepted. `s2sgw refusals` tells why")

        step("4. Authenticating by SASL EXTERNAL, with the name in our certificate.")
        stream.send(f"<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>")
        stream.element(f"{{{SASL}}}success")
        stream.restart()
        stream.send_header(self.name, domain)
        stream.header()
        stream.element(f"{{{STREAMS}}}features")

        step("5. The gateway has authenticated us. We send a message through it.")
        self.sent = secrets.token_hex(8)
        stream.send(
            f"<message from='hello@{self.name}' to='echo@{domain}' type='chat' id='{self.sent}'>"
            f"<body>{escape(body)}</body></message>"
        )
        return stream

    def receive_message(self, listener: socket.socket, domain: str, outgoing: Stream | None = None) -> tuple[Stream, str]:
        """Wait until the gateway brings the answer from `domain` to the message that was sent. Return its stream and its body.

        Answers to the messages of earlier runs may come before it. The pings behind them are answered on `outgoing`.
        """
        host, port = listener.getsockname()[:2]
        step(f"6. Waiting at {host}:{port} for the gateway to bring the answer. Now we are the receiving server.")
        connection, _ = listener.accept()
        connection.settimeout(SECONDS)
        stream = Stream(connection)
        self._answer_header(stream, domain, f"<starttls xmlns='{TLS}'><required/></starttls>")
        stream.element(f"{{{TLS}}}starttls")
        stream.send(f"<proceed xmlns='{TLS}'/>")
        secured = stream.start_tls(self.context(ssl.Purpose.CLIENT_AUTH), None)
        self._check_names(secured, domain)

        step(f"7. The gateway has shown a valid certificate for {domain}. We offer it EXTERNAL.")
        self._answer_header(stream, domain, f"<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>")
        stream.element(f"{{{SASL}}}auth")
        stream.send(f"<success xmlns='{SASL}'/>")
        stream.restart()
        self._answer_header(stream, domain, "")

        step("8. The gateway is authenticated too. It sends the echo.")
        message = self._message(stream, outgoing)
        while self.sent and message.get("id") != self.sent:
            print("     This answers a message of an earlier run. We go on until our own answer comes.")
            message = self._message(stream, outgoing)
        return stream, message.findtext("{jabber:server}body") or ""

    def _message(self, incoming: Stream, outgoing: Stream | None) -> Element:
        """Return the next message. Pings before it are answered."""
        while True:
            element = incoming.element(MESSAGE) if outgoing is None else incoming.element(MESSAGE, IQ)
            if outgoing is None or element.tag == MESSAGE:
                return element
            self._answer(element, outgoing)

    def answer_ping(self, incoming: Stream, outgoing: Stream) -> None:
        """Answer the ping that the gateway may send after its message. The answer tells it that the message has arrived."""
        incoming.connection.settimeout(PING_SECONDS)
        try:
            ping = incoming.element(IQ)
        except TimeoutError:
            return
        step("9. The gateway asks by a ping whether the message has arrived. We answer on our own stream.")
        self._answer(ping, outgoing)

    def _answer(self, ping: Element, outgoing: Stream) -> None:
        asked_by, asked, number = (quoteattr(ping.get(key, "")) for key in ("from", "to", "id"))
        outgoing.send(f"<iq type='result' from={asked} to={asked_by} id={number}/>")

    def _answer_header(self, stream: Stream, domain: str, features: str) -> None:
        attributes = stream.header()
        if attributes.get("from") != domain or attributes.get("to") != self.name:
            raise UnexpectedAnswer(f"the stream must be from {domain} to {self.name}")
        stream.send_header(self.name, domain, secrets.token_hex(8))
        stream.send(f"<stream:features>{features}</stream:features>")

    def _check_names(self, secured: ssl.SSLSocket, domain: str) -> None:
        certificate: dict[str, Any] = secured.getpeercert() or {}
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
        print(f"     {secured.version()}: the gateway's certificate is valid, by our CA, and names {', '.join(names)}")
        if domain not in names:
            raise UnexpectedAnswer(f"the gateway's certificate does not name {domain}")


# --- the command ---------------------------------------------------------------------------------------------------------


def place(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Say hello through a running gateway, as a federation peer.")
    parser.add_argument("--gateway", type=place, default="127.0.0.1:5269", metavar="HOST:PORT", help="address of the gateway")
    parser.add_argument("--listen", type=place, default="127.0.0.1:5299", metavar="HOST:PORT", help="where this peer listens")
    parser.add_argument("--domain", default="example.org", help="a local domain of the gateway")
    parser.add_argument("--peer", default="peer.example", help="our own domain")
    parser.add_argument("--authority", type=Path, default=CERTIFICATES / "ca" / "ca.crt", help="the CA that both sides trust")
    parser.add_argument("--certificate", type=Path, help="our certificate, with its .key beside it")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    peer = Peer(chosen.peer, chosen.authority, chosen.certificate or CERTIFICATES / "peer" / f"{chosen.peer}.crt")
    body = f"Hello, federation! {secrets.token_hex(4)}"
    try:
        with socket.create_server(chosen.listen) as listener:
            listener.settimeout(SECONDS)
            outgoing = peer.send_message(chosen.gateway, chosen.domain, body)
            incoming, answer = peer.receive_message(listener, chosen.domain, outgoing)
            peer.answer_ping(incoming, outgoing)
            step("Both streams are closed gracefully: each closing tag is answered by a closing tag.")
            for stream in (outgoing, incoming):
                stream.close()
    except ConnectionRefusedError:
        return failed(f"nothing listens on {chosen.gateway[0]}:{chosen.gateway[1]}: start the gateway first (make run)")
    except TimeoutError:
        return failed(f"nothing came within {SECONDS:.0f} seconds: see the gateway's log, and `s2sgw refusals`")
    except OSError as error:
        return failed(f"{error} (gateway {chosen.gateway}, our own port {chosen.listen})")
    except (ParseError, UnexpectedAnswer) as error:
        return failed(str(error))
    if body not in answer:
        return failed(f"the answer is not the echo: {answer!r}")
    print(f"\nThe echo came back: {answer!r}. Two streams, both by certificate, one message each way: federation works.")
    return 0


def failed(words: str) -> int:
    print(f"\nIt did not work: {words}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
